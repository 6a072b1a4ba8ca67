"""The methods: a file each, and the registry that everything else asks.

A package of one's own adds a method by naming its class under the entry point group
`kdstudy.methods`; what is installed when a study is read is what it may list.

base.py            fields that methods share; what a plan and a trainer ask of a method
objective.py       the loss of one token: a divergence's value and slope, temperature, hard
                   labels
sft.py             supervised fine-tuning, the baseline
seqkd.py           text that the teacher wrote
word_kd.py         forward KL
revkd.py           reverse KL
gkd.py             JSD(beta), partly on text that the student samples
skew_kl.py         skewed forward KL
skew_revkl.py      skewed reverse KL
tv.py              total variation
akl.py             adaptive KL
alpha_beta.py      alpha-beta divergence
taid.py            a teacher that begins near the student
atkd.py            the text's token and its rivals apart, easy tokens and hard ones apart
distillm2.py       skewed KLs, one for the corpus and one for student text
selective_kd.py    forward KL at the tokens of highest entropy
aligned.py         what methods share whose teacher has another tokenizer
uld.py             sorted probabilities, whatever tokens have them
gold.py            tokens of both vocabularies one by one, the others sorted
hidden_kd.py       forward KL, and hidden states of the last layer or others
hidden_loss.py     the distance of hidden states, as a module; needs torch
onpolicy_revkl.py  reverse KL on text that the student samples
offline_opd.py     reverse KL on text that the student's start wrote
minillm.py         reverse KL of whole texts, by policy gradient
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter

from kdstudy.errors import InputError
from kdstudy.methods.base import Divergence, Method, OnPolicy, Taught
from kdstudy.methods.gkd import GKD
from kdstudy.methods.onpolicy_revkl import OnPolicyRevKL
from kdstudy.methods.revkd import RevKD
from kdstudy.methods.seqkd import SeqKD
from kdstudy.methods.sft import Sft
from kdstudy.methods.skew_kl import SkewKL
from kdstudy.methods.skew_revkl import SkewRevKL
from kdstudy.methods.tv import TV
from kdstudy.methods.word_kd import WordKD
from kdstudy.plugins import plugins

__all__ = [
    "GKD",
    "METHODS",
    "ORIGINS",
    "TV",
    "AnyMethod",
    "Divergence",
    "Method",
    "OnPolicy",
    "OnPolicyRevKL",
    "RevKD",
    "SeqKD",
    "Sft",
    "SkewKL",
    "SkewRevKL",
    "Taught",
    "WordKD",
    "giving",
    "named",
    "short_form",
]

_SHIPPED = (Sft, SeqKD, WordKD, RevKD, GKD, SkewKL, SkewRevKL, TV, OnPolicyRevKL)


def _further() -> list[type[Method]]:
    """Return the methods in files of this folder that are not named above, by type."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.endswith("_loss"):  # a method's loss, which needs torch
            continue
        for cls in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(cls, type) and issubclass(cls, Method) and isinstance(_type(cls), str):
                found[_type(cls)] = cls
    return [found[name] for name in sorted(found) if found[name] not in _SHIPPED]


def _type(cls: type[Method]) -> str:
    return cls.model_fields["type"].default


def _found() -> tuple[dict[str, type[Method]], dict[str, str]]:
    """Return all methods by type, and the package and version of those that are not shipped."""
    methods, origins = {_type(cls): cls for cls in (*_SHIPPED, *_further())}, {}
    for name, origin, cls in plugins("kdstudy.methods", "method"):
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise InputError(
                f"the method {name} of {origin} is no class derived from kdstudy's Method",
                remedy="see examples/jeffreys",
            )
        if _type(cls) in methods:
            raise InputError(
                f"{origin} names a method {_type(cls)}, and there is one already",
                remedy="give it a type of its own",
            )
        methods[_type(cls)], origins[_type(cls)] = cls, origin
    return methods, origins


METHODS, ORIGINS = _found()
AnyMethod: Any = Annotated[Union[tuple(METHODS.values())], Field(discriminator="type")]  # noqa: UP007
"""An entry of a study's `methods`, as a type."""
_ADAPTER: TypeAdapter[Method] = TypeAdapter(AnyMethod)


def named(fields: Mapping[str, Any]) -> Method:
    """Return the method that a table of its fields stands for.

    Raises:
        pydantic.ValidationError: There is no such type, or it has no such field or value.
    """
    return _ADAPTER.validate_python(fields)


def giving(what: str) -> list[str]:
    """Return the types of the methods that learn `what` from a teacher (`Method.teacher_gives`)."""
    return [name for name, cls in METHODS.items() if cls.teacher_gives == what]


def short_form(value: Any) -> Any:
    """Return an entry of `methods` as a table: `gkd` stands for `{type: gkd}`."""
    return {"type": value} if isinstance(value, str) else value
