"""``sparkml render``: its options and help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sparkml.config import suggest
from sparkml.errors import ConfigError, StorageError

EXAMPLES = """
\b
Examples:
  sparkml render digits --target k8s-submit --image team/sparkml:1.0 --api-server https://10.0.0.1:6443 \\
      --set store=s3a://bucket/sparkml --out submit.sh                          then: bash submit.sh
  sparkml render digits --target spark-operator --image team/sparkml:1.0 --set store=s3a://bucket/sparkml \\
      --secret sparkml-s3 --secret-env AWS_ACCESS_KEY_ID --secret-env AWS_SECRET_ACCESS_KEY | kubectl apply -f -
  sparkml render logs --target cronjob --schedule '0 2 * * *' --image team/sparkml:1.0 --date yesterday \\
      --data 'hdfs://nn:8020/logs/dt={date}' --set store=hdfs://nn:8020/sparkml --out logs.yaml      every night at two, UTC
"""


def render(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="A name in conf/pipelines.")],
    target: Annotated[
        str,
        typer.Option(
            "--target", help="k8s-submit, spark-operator (Kubeflow's), spark-kubernetes-operator (Apache's) or cronjob."
        ),
    ],
    image: Annotated[str, typer.Option("--image", help="The image, with a tag or digest: see scripts/kubernetes/Dockerfile.")],
    env: Annotated[str, typer.Option("--env", help="Overlay conf/env/NAME.yaml.")] = "kubernetes",
    namespace: Annotated[str, typer.Option("--namespace", help="Where the pods run.")] = "default",
    name: Annotated[str | None, typer.Option("--name", help="Of the application; sparkml-PIPELINE by default.")] = None,
    service_account: Annotated[str, typer.Option("--service-account", help="May make pods, services and config maps.")] = "spark",
    secret: Annotated[
        str | None,
        typer.Option("--secret", help="Kubernetes secret with what ${env:NAME} and ${file:PATH} of the settings mean."),
    ] = None,
    secret_env: Annotated[
        list[str] | None,
        typer.Option("--secret-env", metavar="NAME", help="One more variable from that secret; may be repeated."),
    ] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", metavar="CRON", help="Run again and again; UTC.")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="volcano or yunikorn: all pods start at once (spark-operator only).")
    ] = None,
    retries: Annotated[int, typer.Option("--retries", min=0, max=100, help="Starts after a failure.")] = 0,
    api_server: Annotated[
        str | None, typer.Option("--api-server", metavar="URL", help="Of the cluster (k8s-submit, cronjob).")
    ] = None,
    shared_memory: Annotated[str, typer.Option("--shm", metavar="SIZE", help="Upper limit of /dev/shm in executors.")] = "1Gi",
    date: Annotated[
        str | None, typer.Option("--date", metavar="DATE", help="As for `run`; `yesterday` is for schedules.")
    ] = None,
    from_date: Annotated[str | None, typer.Option("--from-date", metavar="DATE", help="As for `run`.")] = None,
    to_date: Annotated[str | None, typer.Option("--to-date", metavar="DATE", help="As for `run`.")] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="As for `run`.")] = False,
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="As for `run`.")] = False,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Raw files or folder that the pods can read; may be repeated.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one setting; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead of printing it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document: target, name, text.")] = False,
) -> None:
    """Print what runs a pipeline on Kubernetes: a spark-submit script or manifests, from the same settings as `run`.

    Secrets never stand in it, only references to a Kubernetes secret. Nothing is sent to a cluster.
    """
    from sparkml.flow.dates import chosen_dates
    from sparkml.render.plan import Place, make_plan
    from sparkml.render.targets import TARGETS
    from sparkml.render.targets import render as rendered

    if target not in TARGETS:
        raise ConfigError(f"--target {target!r}: no such target; {suggest(target, TARGETS)}")
    if scheduler not in {None, "volcano", "yunikorn"}:
        raise ConfigError(f"--scheduler {scheduler!r}: no such scheduler; {suggest(scheduler or '', ['volcano', 'yunikorn'])}")
    chosen_dates(date, from_date, to_date, keep_going=keep_going, skip_missing=skip_missing)
    if schedule is not None and (fixed := date or to_date) not in {None, "today", "yesterday"}:
        raise ConfigError(f"every run of the schedule would be for {fixed}", hint="--date yesterday, or --to-date yesterday")
    dates = {"--date": date, "--from-date": from_date, "--to-date": to_date}
    flags = {"--keep-going": keep_going, "--skip-missing": skip_missing}
    place = Place(
        image=image,
        namespace=namespace,
        name=name,
        service_account=service_account,
        secret=secret,
        secret_variables=tuple(secret_env or ()),
        schedule=schedule,
        scheduler=scheduler,
        api_server=api_server,
        retries=retries,
        shared_memory=shared_memory,
    )
    options = [word for flag, value in dates.items() if value is not None for word in (flag, value)]
    options += [flag for flag, on in flags.items() if on]
    plan = make_plan(pipeline, env, assignments or [], data or [], options, place)
    text = rendered(plan, target)
    if out is not None:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {out}: {error.strerror}") from None
    if as_json:
        print(json.dumps({"target": target, "name": plan.name, "text": text}))
    elif out is None:
        print(text, end="")
