"""What a trainer is about to do, in a few lines: models, chain, options, and what an outer step costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import re
from typing import TYPE_CHECKING, Any

from jboat import registry
from jboat.registered_operator import Operator
import jittor as jt

if TYPE_CHECKING:
    from jboat.trainers.bilevel_trainer import BilevelTrainer

_LABEL = 14
_AFTER = re.compile(r"none; (\w+) after it needs (.+)")
_OF_CHOICE = re.compile(r" \([^)]* with (\w+)\)")
_PRODUCT = re.compile(r"\b(\d+) (\d+) \+ (\d+)\b")
_REBUILT = {
    "remat_every": re.compile(r", or of remat_every steps and \S+ more gradients"),
    "checkpoints": re.compile(r", or of a step and checkpoints iterates and about K log K more gradients"),
}
"""Costs of what an option brings about, by its name."""


@dataclass(frozen=True)
class ModelSize:
    """How large a level's model is.

    Attributes:
        model: the class.
        numbers: how many numbers its parameters and buffers hold.
        trained: how many numbers the level optimizes, those of variables beside the model included.
        variables: how many Vars these are.
    """

    model: str
    numbers: int
    trained: int
    variables: int


@dataclass(frozen=True)
class Summary:
    """A trainer in numbers and words; ``str`` gives the text.

    Attributes:
        title: the class, the device and, where it is not float32, the precision.
        models: the sizes by level, ``"lower"`` and ``"upper"``.
        chain: the operators in the order they run.
        options: each operator's options, schedules' changes so far included.
        lower_level: the lower loop in words.
        upper_level: the upper step in words.
        cost: what each operator of the chain costs in an outer step, in gradients, Hessian-vector products and memory.
        per_step: how many hypergradients an outer step averages.
    """

    title: str
    models: Mapping[str, ModelSize]
    chain: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    lower_level: str
    upper_level: str
    cost: Mapping[str, str]
    per_step: int

    def __str__(self) -> str:
        lines = [self.title]

        def add(label: str, text: str) -> None:
            lines.append(f"  {label:<{_LABEL}}{text}")

        for level, size in self.models.items():
            rest = size.numbers - size.trained
            arrays = "array" if size.variables == 1 else "arrays"
            kept = f", {rest:,} numbers more that are not" if rest > 0 else ""
            add(f"{level} model", f"{size.model}: {size.trained:,} numbers trained in {size.variables} {arrays}{kept}")
        add("chain", " -> ".join(self.chain))
        for name, values in self.options.items():
            add("options", f"{name}: {', '.join(f'{key} = {value!r}' for key, value in values.items())}")
        add("lower level", self.lower_level)
        add("upper level", self.upper_level)
        label = "a step costs"
        for name, cost in self.cost.items():
            add(label, f"{name}: {cost}")
            label = ""
        if self.per_step > 1:
            add("", f"{self.per_step} times, for the hypergradients that it averages")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def summary_of(trainer: BilevelTrainer) -> Summary:
    """The summary of a trainer as it stands."""
    known = registry.operators()
    names = trainer.current_run.problem.operators
    found = {name: known[name] for name in names if name in known}
    options = {name: o.options_in(trainer.solver_config) for name, o in found.items()}
    set_values = {name: asdict(value) for name, value in options.items() if value is not None}
    start = "where the last one ended" if trainer.warm_start else "the first y_0"
    batches = "a batch" if trainer.lower_batches == "shared" else "a batch for each step"
    state = "starts afresh" if trainer.ll_optimizer_state == "reset" else "carries over"
    steps = f"{trainer.lower_iters} steps of " if trainer.current_run.method.has_lower_loop else ""
    loop = f"; starts from {start}" if trainer.current_run.method.has_lower_loop else ""
    return Summary(
        title=_title(trainer),
        models={
            "lower": _size(trainer.ll_model, trainer.ll_var),
            "upper": _size(trainer.ul_model, trainer.ul_var),
        },
        chain=names,
        options=set_values,
        lower_level=f"{steps}{_optimizer(trainer.ll_optimizer)}, whose state {state}; {batches}{loop}",
        upper_level=_optimizer(trainer.ul_optimizer),
        cost=_costs(found, set_values, trainer.lower_iters, {*found, *trainer.na_op}),
        per_step=trainer.accumulate,
    )


def _title(trainer: BilevelTrainer) -> str:
    title = f"{type(trainer).__name__} on {trainer.device}"
    return title if trainer.precision == "fp32" else f"{title}, products and convolutions in {trainer.precision}"


def short(trainer: BilevelTrainer) -> str:
    """A trainer in a line."""
    chain = " -> ".join(trainer.current_run.problem.operators)
    sizes = [
        f"{level}={type(model).__name__} ({sum(v.numel() for v in variables):,} numbers)"
        for level, model, variables in (
            ("ll_model", trainer.ll_model, trainer.ll_var),
            ("ul_model", trainer.ul_model, trainer.ul_var),
        )
    ]
    where = f"lower_iters={trainer.lower_iters}, {', '.join(sizes)}, step={trainer.state.step}"
    return f"{type(trainer).__name__}({chain}, {where})"


def _size(model: jt.Module, variables: list[jt.Var]) -> ModelSize:
    own = {id(v) for v in model.parameters()}
    beside = sum(v.numel() for v in variables if id(v) not in own)
    return ModelSize(
        model=type(model).__name__,
        numbers=sum(v.numel() for v in model.parameters()) + beside,
        trained=sum(v.numel() for v in variables),
        variables=len(variables),
    )


def _optimizer(optimizer: jt.optim.Optimizer) -> str:
    rates = list(dict.fromkeys(f"{group.get('lr', optimizer.lr):g}" for group in optimizer.param_groups))
    return f"{type(optimizer).__name__} (lr {', '.join(rates)})"


def _costs(
    found: Mapping[str, Operator], options: Mapping[str, Mapping[str, Any]], lower_iters: int, named: set[str]
) -> dict[str, str]:
    """Each operator's cost as it is registered, with numbers in the place of K, M, k and the names of options."""
    first = next((values["truncate_iter"] for values in options.values() if "truncate_iter" in values), 0)
    costs: dict[str, str] = {}
    replaced: dict[str, str] = {}
    for name, operator in found.items():
        own = options.get(name, {})
        text = operator.cost or "not told"
        after = _AFTER.fullmatch(text)
        if after:
            text = "none"
            replaced[after[1]] = after[2]
        text = replaced.get(name, text)
        for option, cost in _REBUILT.items():
            if not own.get(option):
                text = cost.sub("", text)
        numbers = {"K - M": lower_iters - first, "K": lower_iters, "lower_iters": lower_iters}
        costs[name] = _with_values(text, {**numbers, **own}, named)
    return costs


def _with_values(text: str, values: Mapping[str, Any], named: set[str]) -> str:
    """A cost with numbers in the place of names, and with what is said of a choice only where it is made."""
    choices = named | {value for value in values.values() if isinstance(value, str)}
    text = _OF_CHOICE.sub(lambda found: found[0] if found[1] in choices else "", text)
    for name, value in values.items():
        word = rf"\b{re.escape(name)}\b"
        if isinstance(value, bool):
            parts = re.split(r"(?=[,;])", text)
            text = "".join(re.sub(rf" with {word}", "", part) for part in parts if value or not re.search(word, part))
        elif isinstance(value, (int, float)):
            text = re.sub(word, str(value), text)
    return _PRODUCT.sub(lambda found: str(int(found[1]) * int(found[2]) + int(found[3])), text)
