"""The flow: the only room that knows more than one stage."""
