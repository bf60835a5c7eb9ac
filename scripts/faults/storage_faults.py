"""Faults of HDFS and S3, and how each is brought about; `cluster.py` runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from drill import FaultError, SkipError
from injection import Seen, Site
from s3_proxy import Request, S3Proxy, is_conditional, is_skewed, is_upload
from store_workload import Settings

from sparkml.learners.checkpoint import Checkpoint, CheckpointFolder
from sparkml.shards import copies
from sparkml.storage.manifest import MANIFEST

Fault = Callable[[Site], Seen]
_SKEW_SECONDS = 1200.0
_FIRST_SHARDS = f"datasets/{Settings.name}/shards/0000"


def in_work(
    gate: str, harm: Callable[[Site], object], heal: Callable[[Site], object] = lambda site: None, **environment: str
) -> Fault:
    """Harm when the work is at a gate, heal when it has noticed."""

    def fault(site: Site) -> Seen:
        site.prepare()
        job = site.start(gates=(gate,), environment=environment)
        site.at_gate(job, gate)
        at = time.time()
        harm(site)
        site.open_gate(gate)
        site.noticed(job, 15.0)
        heal(site)
        return site.seen(job, at)

    return fault


# --- HDFS ---


def kill_the_writing_datanode(site: Site) -> None:
    site.kill(site.datanode(site.blocks("rbw")[-1]))


def kill_both_writing_datanodes(site: Site) -> None:
    newest = site.blocks("rbw")[-1].name.partition(".")[0]
    site.kill(*sorted({site.datanode(block) for block in site.blocks("rbw") if block.name.startswith(newest)}))


def kill_a_reading_datanode(site: Site) -> None:
    blocks = [site.datanode(block) for block in site.blocks()]
    site.kill(max(set(blocks), key=blocks.count))


def kill_two_datanodes(site: Site) -> None:
    last = site.blocks()[-1].name  # of the shard that is read last
    site.kill(*sorted({site.datanode(block) for block in site.blocks() if block.name == last}))


def kill_the_namenode(site: Site) -> None:
    site.kill("namenode")


def fill_the_disk_of_a_writing_datanode(site: Site) -> None:
    block = site.blocks("rbw")[-1]
    disk = site.cluster.folder / block.relative_to(site.cluster.folder).parts[0]
    if not os.path.ismount(disk):
        raise SkipError("a small disk could not be mounted")
    fill(disk / "filler")


def empty_the_disks(site: Site) -> None:
    for filler in site.cluster.folder.glob("dn*/filler"):
        filler.unlink()


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(path.parent).free - (1 << 20))
            file.seek(0, os.SEEK_END)
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            pass  # full


def full_scratch(site: Site) -> Seen:
    disk = site.folder / "scratch"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True)
    if mount.returncode != 0:
        raise SkipError(f"a small disk could not be mounted: {mount.stderr.strip().splitlines()[-1]}")
    try:
        environment = {copies.ALLOWED: "1", "SPARK_LOCAL_DIRS": str(disk), "TMPDIR": str(disk)}
        return in_work("publishing", lambda site: fill(disk / "filler"), **environment)(site)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def corrupted(replicas: int) -> Fault:
    """Alter bytes on the disks of DataNodes, in every block of the shards: of one replica, or of both."""

    def harm(site: Site) -> None:
        harmed: dict[str, int] = {}
        large = [block for block in site.blocks() if block.stat().st_size > 3 << 20]
        for block in large:
            if harmed.setdefault(block.name, 0) < replicas:
                harmed[block.name] += 1
                with block.open("r+b") as file:
                    file.seek(1 << 20)
                    file.write(os.urandom(4096))

    def fault(site: Site) -> Seen:
        site.prepare()
        before = {block.name for block in site.blocks()}
        job = site.start(gates=("writing", "reading"))
        site.at_gate(job, "writing")
        site.open_gate("writing")
        site.at_gate(job, "reading")
        keep, site.blocks = site.blocks, lambda kind="finalized": [b for b in keep(kind) if b.name not in before]  # type: ignore[method-assign]
        at = time.time()
        harm(site)
        site.open_gate("reading")
        told = job.finish()
        if "digest" in told:
            return site.seen(job, at)
        # all copies are lost: nothing can bring them back, but they must not be taken for good
        site.store.remove(_FIRST_SHARDS)
        seen = site.seen(job, at)
        return Seen(seen.user, seen.seconds, "no: made again once the artifact was removed", seen.retries, seen.digest)

    return fault


def torn_checkpoint(site: Site) -> Seen:
    site.prepare()
    folder = CheckpointFolder(site.store, "checkpoints/work", "f" * 64, keep=3)
    for epoch in (1, 2):
        arrays = {"weights": np.full((1 << 18,), float(epoch))}
        folder.save(Checkpoint("f" * 64, 2, epoch, 0, arrays, {}))
    folder.close()
    newest = folder.names()[0]
    body = folder.read(newest)
    site.store.replace(f"{folder.path}/{newest}", body[: len(body) // 2])
    at = time.time()
    name, refused = folder.newest(16)
    if name != "e000001-s000000000.npz" or float(folder.decode(folder.read(name)).arrays["weights"][0]) != 1.0:
        raise FaultError(f"the checkpoint before is not used, but {name!r}")
    seconds = time.time() - at
    return Seen(refused[0], seconds, "yes: the one before is used", {}, site.start().finish()["digest"])


def altered_manifest(site: Site) -> Seen:
    """Cut in half, another size of a file, a file that is not there: one of them each time."""
    site.prepare()
    first = site.start().finish()
    path = f"{_FIRST_SHARDS}/{MANIFEST}"
    body = site.store.read(path)
    told = site.store.manifest(_FIRST_SHARDS)
    size = f'"size": {told.files[0].size}'.encode()
    ways = [body[: len(body) // 2], body.replace(size, b'"size": 17', 1), body.replace(told.files[0].path.encode(), b"else", 1)]
    site.store.replace(path, ways[site.turn % 3])
    at = time.time()
    job = site.start()
    again = job.finish()
    line = next(line for line in job.warnings() if "made again" in line["text"])
    if again.get("digest") != first["digest"]:
        raise FaultError(f"the output differs: {again}")
    return Seen(line["text"], line["time"] - at, "yes: made again", again["retries"], again["digest"])


# --- S3 ---


def by_proxy(gate: str, harm: Callable[[S3Proxy], object], heal: Callable[[S3Proxy], object] = lambda proxy: None) -> Fault:
    """Let the endpoint fail from a gate on."""

    def fault(site: Site) -> Seen:
        proxy = S3Proxy(site.cluster.environment()["AWS_ENDPOINT_URL"])
        site.environment["AWS_ENDPOINT_URL"] = proxy.url

        def start(site: Site) -> None:
            harm(proxy)

        try:
            seen = in_work(gate, start, lambda site: heal(proxy))(site)
            if proxy.harm is not None and not proxy.harmed:
                raise FaultError("no request was harmed")
            return seen
        finally:
            proxy.stop()

    return fault


def away(site: Site) -> Seen:
    """The endpoint is gone for 4 s."""
    endpoint = site.cluster.environment()["AWS_ENDPOINT_URL"]
    proxies = [S3Proxy(endpoint)]
    site.environment["AWS_ENDPOINT_URL"] = proxies[0].url

    def back(site: Site) -> None:
        time.sleep(4)
        proxies.append(S3Proxy(endpoint, proxies[0].server_port))

    try:
        return in_work("writing", lambda site: proxies[0].stop(), back)(site)
    finally:
        proxies[-1].stop()


def slowly(request: Request) -> bool:
    time.sleep(1.5)
    return False


def skewed(site: Site) -> Seen:
    """The work's clock is wrong by 20 minutes; S3 refuses it. Started again with a right one it goes on."""
    proxy = S3Proxy(site.cluster.environment()["AWS_ENDPOINT_URL"])
    site.environment["AWS_ENDPOINT_URL"] = proxy.url
    proxy.fail(lambda request: request.refuse(403, "RequestTimeTooSkewed"), wanted=is_skewed)
    try:
        site.prepare()
        at = time.time()
        return site.seen(site.start(environment=clock(site, "+20m")), at, _SKEW_SECONDS)
    finally:
        proxy.stop()


def clock(site: Site, off: str) -> dict[str, str]:
    """Return the environment of a process whose clock is off (libfaketime; from Debian's package, where it is not installed)."""
    installed = [
        *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
        *site.cluster.folder.glob("faketime/**/libfaketimeMT.so.1"),
    ]
    if not installed:
        folder = site.cluster.folder / "faketime"
        folder.mkdir(exist_ok=True)
        if (
            shutil.which("apt-get") is None
            or subprocess.run(["apt-get", "download", "libfaketime"], cwd=folder, capture_output=True).returncode
        ):
            raise SkipError("libfaketime is not there: apt-get install libfaketime")
        subprocess.run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder)], check=True)
        installed = list(folder.glob("**/libfaketimeMT.so.1"))
    return {"LD_PRELOAD": str(installed[0]), "FAKETIME": off, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


# --- two at once ---


def skewed_lease(site: Site) -> Seen:
    """A holder on another host whose clock is 20 minutes behind looks as if it had not renewed its lease for long."""
    if shutil.which("unshare") is None:
        raise SkipError("unshare is not there")
    site.prepare()
    elsewhere = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "-")
    holder = site.start(prefix=elsewhere, gates=("reading",), environment=clock(site, "-20m"))
    site.at_gate(holder, "reading")
    at = time.time()
    refused = site.start()
    told = refused.finish()
    site.open_gate("reading")
    done = site.seen(holder, time.time() + 3600)
    if refused.process.returncode != 8:
        raise FaultError(f"the lease of a living holder was taken: {told}")
    return Seen(told["error"], told["time"] - at, "yes: the first went on, the second was refused", done.retries, done.digest)


def twice(site: Site) -> Seen:
    """Two schedulers start the same thing."""
    site.prepare()
    at = time.time()
    jobs = [site.start(), site.start()]
    told = [job.finish() for job in jobs]
    codes = sorted(job.process.returncode for job in jobs)
    if codes != [0, 8]:
        raise FaultError(f"exit codes {codes}: {told}")
    done, refused = sorted(told, key=lambda one: "error" in one)
    return Seen(refused["error"], refused["time"] - at, "yes: one is done, one is refused (exit code 8)", {}, done["digest"])


def two_versions(site: Site) -> Seen:
    """Two runs register the same model in the same moment."""
    site.prepare()
    names = ("a", "b")
    jobs = [site.start(name=name, lease=name, model="both", content=5, gates=("registering",)) for name in names]
    for job in jobs:
        site.at_gate(job, "registering")
    site.open_gate("registering")
    told = [job.finish() for job in jobs]
    if any("error" in one for one in told) or sorted(one["version"] for one in told) != [1, 2]:
        raise FaultError(f"not one number each: {told}")
    retries = {name: count for one in told for name, count in one["retries"].items()}
    if told[0]["digest"] != told[1]["digest"]:
        raise FaultError("the versions are mixed")
    return Seen("versions 1 and 2", None, "yes: one number each", retries, site.start().finish()["digest"])


_UPLOADS = {"most": 3, "wanted": is_upload}
HDFS: dict[str, tuple[str, Fault]] = {
    "datanode-writing": (
        "a DataNode that a shard is being written to is killed",
        in_work("writing", kill_the_writing_datanode),
    ),
    "datanode-reading": ("a DataNode is killed while ranks read", in_work("reading", kill_a_reading_datanode)),
    "datanodes-writing": (
        "both DataNodes that a shard is being written to are killed (two of three), and come back",
        in_work("writing", kill_both_writing_datanodes, Site.healthy),
    ),
    "datanodes-reading": (
        "both DataNodes that have a block are killed (two of three) while ranks read, and come back",
        in_work("reading", kill_two_datanodes, Site.healthy),
    ),
    "namenode-writing": (
        "the NameNode is killed while a shard is written, and comes back in safe mode",
        in_work("writing", kill_the_namenode, Site.healthy),
    ),
    "namenode-publishing": (
        "the NameNode is killed before a publish, and comes back in safe mode",
        in_work("publishing", kill_the_namenode, Site.healthy),
    ),
    "namenode-replacing": (
        "the NameNode is killed before partitions of an output are replaced, and comes back in safe mode",
        in_work("replacing", kill_the_namenode, Site.healthy),
    ),
    "namenode-reading": (
        "the NameNode is killed while ranks read, and comes back in safe mode",
        in_work("reading", kill_the_namenode, Site.healthy),
    ),
    "datanode-disk-full": (
        "the disk of a DataNode that a shard is being written to is full",
        in_work("writing", fill_the_disk_of_a_writing_datanode, empty_the_disks),
    ),
    "scratch-full": ("the local scratch disk is full (Spark's, and TMPDIR)", full_scratch),
    "block-corrupt": ("bytes altered on disk: one replica of every block of the shards", corrupted(1)),
    "block-corrupt-both": ("bytes altered on disk: both replicas of every block of the shards", corrupted(2)),
    "torn-checkpoint-hdfs": ("half of the newest training checkpoint is missing", torn_checkpoint),
    "altered-manifest": ("a manifest is cut, or names another size or file", altered_manifest),
    "skewed-lease": ("the clock of another host that holds the lease is 20 minutes behind", skewed_lease),
    "twice-hdfs": ("the same work started twice at once (HDFS)", twice),
    "two-versions-hdfs": ("two runs register a version of one model at once (HDFS)", two_versions),
}
S3: dict[str, tuple[str, Fault]] = {
    "s3-500": (
        "S3 answers every request with 500 for 4 s",
        by_proxy("writing", lambda proxy: proxy.fail(lambda request: request.refuse(500, "InternalError"), seconds=4)),
    ),
    "s3-503": (
        "S3 answers every request with 503 SlowDown for 4 s",
        by_proxy("publishing", lambda proxy: proxy.fail(lambda request: request.refuse(503, "SlowDown"), seconds=4)),
    ),
    "s3-away": ("the S3 endpoint refuses connections for 4 s", away),
    "s3-slow": (
        "S3 takes 1.5 s more for each of the next 20 requests",
        by_proxy("writing", lambda proxy: proxy.fail(slowly, most=20)),
    ),
    "s3-cut-upload": (
        "S3 cuts the connection in the middle of the next 3 uploads",
        by_proxy("writing", lambda proxy: proxy.fail(Request.cut_in_the_middle, **_UPLOADS)),
    ),
    "s3-lost-commit": (
        "S3 commits the manifest, and the answer is lost",
        by_proxy("publishing", lambda proxy: proxy.fail(Request.lose_the_answer, most=1, wanted=is_conditional)),
    ),
    "s3-lost-claim": (
        "S3 claims a version's number, and the answer is lost",
        by_proxy("registering", lambda proxy: proxy.fail(Request.lose_the_answer, most=1, wanted=is_conditional)),
    ),
    "s3-cut-reading": (
        "S3 cuts every connection for 4 s while ranks read",
        by_proxy("reading", lambda proxy: proxy.fail(Request.cut, seconds=4)),
    ),
    "s3-skewed": ("this host's clock is 20 minutes ahead of S3's", skewed),
    "torn-checkpoint-s3": ("half of the newest training checkpoint is missing (S3)", torn_checkpoint),
    "twice-s3": ("the same work started twice at once (S3)", twice),
    "two-versions-s3": ("two runs register a version of one model at once (S3)", two_versions),
}
