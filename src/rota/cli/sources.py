"""Where a policy comes from, in a line for `rota list policies`: the sentence of its module's text that is the reference, or what the policy names itself."""

import re
import sys
from typing import Any

_PUBLISHED = re.compile(r"\b(19|20)\d\d\b|\barXiv\b")
_VERSION = re.compile(r"^[^.]*\b(vLLM|SGLang|Dynamo|llm-d)\b.*\bv?\d+\.\d+|^Ours\b")
_SENTENCE = re.compile(r"(?<=[a-z0-9)\]])\. ")


def source(policy: type[Any]) -> str:
    """The reference of a policy: a paper, a version of a program, or that it is ours. Empty where its text has none."""
    if own := vars(policy).get("source"):  # not its parent's: what derives from a published policy is another one
        return str(own)
    sentences = _SENTENCE.split(" ".join((sys.modules[policy.__module__].__doc__ or "").split()))
    found = [each for pattern in (_PUBLISHED, _VERSION) for each in sentences if pattern.search(each)]
    return found[0] if found else ""
