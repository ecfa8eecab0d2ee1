"""Forward mode of many directions at once: a tensor that carries its tangents through whatever a network does to it.

torch's own, vmap of jvp, took 2.3 forwards of as many pictures as there are directions: it convolves once more with
derivatives of weights that are 0, passes a dozen times over memory in a GroupNorm, and steps through two interpreters
at every operation. Here the tangents of what networks are made of are written out; all else is torch's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten


def pushed(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "*shape"], tangents: Float[Tensor, "directions *shape"]
) -> tuple[Float[Tensor, "..."], Float[Tensor, "directions ..."]]:
    """f(x), and its derivative at x in every direction, from one call of f.

    Raises:
        RuntimeError: f reads numbers out of tensors, or changes in place a view, or what a view shows that is still
            there: a derivative would be lost.
    """
    with torch.inference_mode(False), torch.no_grad():  # of predict, whose tensors torch's derivatives do not take
        out = f(_Carried(x.clone(), tangents.clone()))
        if isinstance(out, _Carried):
            return out.value, out.tangents
        return out, out.new_zeros(len(tangents), *out.shape)


class _Carried(Tensor):
    """A value of some shape and its tangents, (directions, *shape). It has no data: what does not know it fails."""

    value: Tensor
    tangents: Tensor
    family: list["ref[_Carried]"]  # itself and its views

    @staticmethod
    def __new__(cls, value: Tensor, tangents: Tensor) -> "_Carried":
        made = Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype, device=value.device)  # type: ignore
        made.value, made.tangents, made.family = value, tangents, [ref(made)]
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            rule, kwargs = _RULES.get(func), kwargs or {}
            try:
                made = NotImplemented if rule is None else rule(*args, **kwargs)
            except TypeError:  # called by names that the rule does not have
                made = NotImplemented
            return _by_torch(func, args, kwargs) if made is NotImplemented else made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore
        raise RuntimeError(f"{func} reads numbers past torch's functions, where a derivative would be lost")


def _by_torch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Any function: its tangents are torch's."""
    name = getattr(func, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return _in_place(name, args, kwargs)
    if kwargs.get("inplace"):
        return _rebound(name, args[0], _Carried.__torch_function__(func, (), args, {**kwargs, "inplace": False}))
    flat, spec = tree_flatten((args, kwargs))
    places = [place for place, given in enumerate(flat) if isinstance(given, _Carried)]
    of = partial(_called, func, flat, spec, places)
    values = tuple(flat[place].value for place in places)
    versions = [value._version for value in values]
    made = of(*values)
    if [value._version for value in values] != versions:
        raise RuntimeError(f"{name} works in place, where a derivative would be lost")
    outputs, shape = tree_flatten(made)
    if not any(isinstance(one, Tensor) for one in outputs):
        return func(*args, **kwargs)  # what is asked of a shape is known, of numbers refused
    if len(outputs) == 1 and (same := [flat[place] for place in places if flat[place].value is made]):
        return same[0]  # contiguous() of what is so already
    with sdpa_kernel(SDPBackend.MATH):  # flash attention has no forward mode
        pushed = vmap(lambda *along: jvp(of, values, along)[1])(*(flat[place].tangents for place in places))
    carried = [_Carried(*pair) for pair in zip(outputs, tree_flatten(pushed)[0], strict=True)]
    for one in carried:
        for source in (flat[place] for place in places):
            if one.value.untyped_storage().data_ptr() == source.value.untyped_storage().data_ptr():
                one.family = source.family
                one.family.append(ref(one))
    return tree_unflatten(carried, shape)


def _called(func: Any, flat: Any, spec: Any, places: list[int], *values: Tensor) -> Any:
    """The function of tensors in these places, and of all else that it was called with."""
    filled = dict(zip(places, values, strict=True))
    given, named = tree_unflatten([filled.get(place, one) for place, one in enumerate(flat)], spec)
    return func(*given, **named)


def _in_place(name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """x += y, as x = x + y under the same name; refused of a view, or beside one: the other would not know."""
    x, func = args[0], getattr(Tensor, name[:-1], None)
    if func is None:
        raise RuntimeError(f"{name} works in place, where a derivative would be lost")
    return _rebound(name, x, _Carried.__torch_function__(func, (), args, kwargs))


def _rebound(name: str, x: Any, made: Any) -> Any:
    beside = isinstance(x, _Carried) and [one for one in x.family if one() is not None and one() is not x]
    if not isinstance(x, _Carried) or x.value._is_view() or beside:
        raise RuntimeError(
            f"{name} works in place on a view, beside one, or on what has no tangents: a derivative would be lost"
        )
    if made.shape != x.shape or made.dtype != x.dtype:
        raise RuntimeError(f"{name} gives {tuple(made.shape)} in place of {tuple(x.shape)}")
    x.value, x.tangents, x.family = made.value, made.tangents, [ref(x)]
    return x


# -- what networks are made of: NotImplemented where a case is not the plain one


def _rows(tangents: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """A linear function of pictures, of all tangents as if they were more pictures."""
    return f(tangents.flatten(0, 1)).unflatten(0, tangents.shape[:2])


def _conv2d(x: Any, weight: Tensor, bias: Tensor | None = None, *how: Any, **named: Any) -> Any:
    if _other(weight, bias) or x.dim() != 4:
        return NotImplemented
    made = F.conv2d(x.value, weight, bias, *how, **named)
    return _Carried(made, _rows(x.tangents, lambda t: F.conv2d(t, weight, None, *how, **named)))


def _linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    if _other(weight, bias):
        return NotImplemented
    return _Carried(F.linear(x.value, weight, bias), F.linear(x.tangents, weight))


def _silu(x: Any, inplace: bool = False) -> Any:
    if inplace:
        return NotImplemented
    made, gate = F.silu(x.value), x.value.sigmoid()
    return _Carried(made, x.tangents * (gate + made * (1 - gate)))


def _group_norm(
    x: Any, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    """With the tangent scale (dx - mean(dx) - y mean(y dx)), y the normalised input, by groups."""
    if _other(weight, bias):
        return NotImplemented
    if weight is not None and weight.dtype != x.dtype:  # under autocast: in its type, and given back in torch's
        made = F.group_norm(x.value, groups, weight, bias, eps)
        full = _Carried(x.value.to(weight.dtype), x.tangents.to(weight.dtype))
        return _Carried(made, _group_norm(full, groups, weight, bias, eps).tangents.to(made.dtype))
    value, (batch, channels, *space) = x.value.contiguous(), x.value.shape
    size = torch.Size(space).numel()
    made, mean, rstd = torch.native_group_norm(value, weight, bias, batch, channels, size, groups, eps)
    mean, rstd = mean.reshape(-1, 1), rstd.reshape(-1, 1)
    normal = (value.reshape(batch * groups, -1) - mean) * rstd
    scale = rstd.reshape(batch, groups).repeat_interleave(channels // groups, 1)
    scale = scale if weight is None else scale * weight
    grouped = x.tangents.reshape(len(x.tangents), batch * groups, -1)
    along = (grouped.transpose(0, 1) @ normal[..., None]).transpose(0, 1) / normal.shape[-1]
    moved = torch.addcmul(grouped, normal, along, value=-1).sub_(grouped.mean(-1, keepdim=True))
    moved = moved.reshape(len(moved), batch, channels, -1).mul_(scale[..., None])
    return _Carried(made, moved.reshape(x.tangents.shape))


def _add(one: Any, other: Any, **named: Any) -> Any:
    one, other = (one, other) if isinstance(one, _Carried) else (other, one)
    both = isinstance(other, _Carried)
    made = one.value + (other.value if both else other)
    if named or made.shape != one.shape or made.dtype != one.dtype or (both and other.shape != one.shape):
        return NotImplemented
    return _Carried(made, one.tangents + other.tangents if both else one.tangents)


def _scaled(times: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def rule(one: Any, other: Any, **named: Any) -> Any:
        if named or not isinstance(one, _Carried) or not isinstance(other, int | float):
            return NotImplemented
        if other == 1:  # a tensor of its own, which may be changed in place
            return _Carried(one.value, one.tangents)
        return _Carried(times(one.value, other), times(one.tangents, other))

    return rule


def _cat(parts: Any, dim: int = 0) -> Any:
    if dim < 1 or not all(isinstance(part, _Carried) for part in parts):
        return NotImplemented
    return _Carried(torch.cat([p.value for p in parts], dim), torch.cat([p.tangents for p in parts], dim + 1))


def _interpolate(x: Any, *how: Any, **named: Any) -> Any:
    made = F.interpolate(x.value, *how, **named)
    return _Carried(made, _rows(x.tangents, lambda t: F.interpolate(t, *how, **named)))


def _dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return NotImplemented if training else x


def _other(*given: Any) -> bool:
    """Whether what is a weight as a rule has tangents."""
    return any(isinstance(one, _Carried) for one in given)


_RULES: dict[Any, Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.silu: _silu,
    F.group_norm: _group_norm,
    F.interpolate: _interpolate,
    F.dropout: _dropout,
    torch.cat: _cat,
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _add),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _scaled(torch.mul)),
    **dict.fromkeys((torch.div, Tensor.div, Tensor.__truediv__), _scaled(torch.div)),
}
