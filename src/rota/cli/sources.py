"""Where a policy comes from, in a line for `rota list policies`: the sentence of its module's text that is the reference, or what is named here."""

import re
import sys
from typing import Any

_PUBLISHED = re.compile(r"\b(19|20)\d\d\b|\barXiv\b")
_VERSION = re.compile(r"^[^.]*\b(vLLM|SGLang|Dynamo|llm-d)\b.*\bv?\d+\.\d+|^Ours\b")
_SENTENCE = re.compile(r"(?<=[a-z0-9)\]])\. ")

_KINGMAN = "Kingman, The effect of queue discipline on waiting time variance, 1962"
_MITZENMACHER = "Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 2001"
_SCHRAGE = (
    "Schrage, A proof of the optimality of the shortest remaining processing time discipline, Operations Research 1968"
)
_WINSTON = "Winston, Optimality of the shortest line discipline, 1977"
_TASKS = (
    "Harchol-Balter, Crovella and Murta, On choosing a task assignment policy for a distributed server system, 1999"
)
_SCORERS = "Gateway API Inference Extension and llm-d, LoRA-affinity scorer"

# By class, where the text has its reference inside a sentence of its own, or one for each of several policies.
SOURCES: dict[str, str] = {
    "FirstCome": _KINGMAN,
    "LastCome": _KINGMAN,
    "RandomOrder": _KINGMAN,
    "ShortestFirst": _SCHRAGE,
    "ShortestRemaining": _SCHRAGE,
    "PreemptiveShortest": _SCHRAGE,
    "PriorityFirst": "Cobham, Priority assignment in waiting line problems, Operations Research 1954",
    "EarliestDue": "Jackson, Scheduling a production line to minimize maximum tardiness, 1955",
    "LeastSlack": "Mok, Fundamental design problems of distributed systems for the hard-real-time environment, MIT 1983",
    "LeastServedTenant": "Goyal, Vin and Cheng, SIGCOMM 1996; Sheng et al., Fairness in Serving Large Language Models, OSDI 2024",
    "RandomPlace": _MITZENMACHER,
    "PowerOfTwo": _MITZENMACHER,
    "RoundRobin": _TASKS,
    "LeastOutstanding": _WINSTON,
    "LeastQueued": _WINSTON,
    "LeastWork": _TASKS,
    "LongestMatch": "vLLM production-stack router, its prefix-aware mode",
    "PrefixAware": "vLLM production-stack router, its prefix-aware mode",
    "LoraAffinity": _SCORERS,
    "AdapterFirst": f"Ours, simpler than {_SCORERS}",
    "WeightedScorers": "llm-d router and Gateway API Inference Extension; weights of Red Hat OpenShift AI 3.4",
    "Reactive": "None: requests counted, as any autoscaler can",
    "Utilisation": "Kubernetes, horizontal pod autoscaler",
    "FleetFreeness": "Sun et al., Llumnix: Dynamic Scheduling for Large Language Model Serving, OSDI 2024",
    "Predictive": "Brown, Statistical Forecasting for Inventory Control, 1959; Holt 1957; Winters, Management Science 6, 1960",
    "LowestFirst": "Beyer et al., Site Reliability Engineering, chapter 21, O'Reilly 2016",
    "Together": "None: the baseline of disaggregation",
}


def source(policy: type[Any]) -> str:
    """The reference of a policy: a paper, a version of a program, or that it is ours. Empty where its text has none."""
    if policy.__module__.startswith("rota.") and policy.__name__ in SOURCES:
        return SOURCES[policy.__name__]
    sentences = _SENTENCE.split(" ".join((sys.modules[policy.__module__].__doc__ or "").split()))
    found = [each for pattern in (_PUBLISHED, _VERSION) for each in sentences if pattern.search(each)]
    return found[0] if found else ""
