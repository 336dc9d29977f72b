"""transformers and torch: the reference.

Models whose layers all keep every token export blocks. Those with sliding windows or recurrent layers
export whole states, with the true length: without it transformers takes a window for the beginning of
the sequence, and is wrong in silence.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from lix_cache.errors import ConfigError, EngineError, MissingExtra
from lix_cache.kv.engine import Options, model_folder
from lix_cache.kv.engines.attributes import attributes_of
from lix_cache.kv.engines.in_process import CachedSequence, InProcessEngine
from lix_cache.kv.tensors import ITEM_SIZE, State, Tensor

__all__ = ["TransformersEngine"]

#: Integers of a size, numpy's and torch's: bytes go from one to the other so, for numpy lacks bfloat16.
_INTEGERS = {1: ("<u1", "uint8"), 2: ("<i2", "int16"), 4: ("<i4", "int32"), 8: ("<i8", "int64")}
_DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "bool": "BOOL",
    "uint8": "U8",
}
_WEIGHTS = ("auto", "bfloat16", "float16", "float32", "float64")
_TORCH = {ours: theirs for theirs, ours in _DTYPES.items()}


class TransformersEngine(InProcessEngine):
    """A causal language model of transformers. Loaded by :meth:`load`, or handed over.

    Args:
        model: of ``AutoModelForCausalLM``, in evaluation mode, with adapters as they will be used.
        tokenizer: its own, with a chat template if messages are to be rendered.
        context_tokens: the most tokens of a sequence; None is what the model's config says.
        most_live: how many sequences to hold at once.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, context_tokens: int | None = None, most_live: int = 64
    ) -> None:
        super().__init__()
        self._torch = _torch()
        self._model = model.eval()
        self._tokenizer = tokenizer
        config = model.config.get_text_config(decoder=True)
        self.context_tokens = context_tokens or int(getattr(config, "max_position_embeddings", 0) or 4096)
        self.most_live = most_live
        kinds = {type(layer).__name__ for layer in self._new_cache().layers}
        self.exports: Literal["blocks", "snapshots"] = "blocks" if kinds <= {"DynamicLayer"} else "snapshots"
        self.cuts = self.exports == "blocks"
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = [ends] if isinstance(ends, int) else list(ends or ())
        self.end_ids = frozenset([*ends, *filter(None, [tokenizer.eos_token_id])])
        self.special_ids = frozenset(tokenizer.all_special_ids)
        # The template writes them.
        self.start_ids: list[int] = []
        self._layers = sorted(kinds)
        self._digests: tuple[Any, str] = (None, "")
        self.look()

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, dtype: str = "auto", **options: Any
    ) -> TransformersEngine:
        """Load a model folder: weights, config and tokenizer. Nothing is fetched.

        Args:
            folder: of the model. Names of a hub are none.
            dtype: of the weights and of the state, such as ``bfloat16``; ``auto`` is the file's.
            options: of the class.

        Raises:
            ConfigError, EngineError: there is no such folder or dtype; transformers cannot load it.
        """
        path = model_folder(folder)
        if dtype not in _WEIGHTS:
            raise ConfigError(f"dtype={dtype!r}: choose one of {', '.join(_WEIGHTS)}")
        _torch()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
        except (OSError, ValueError) as error:
            raise EngineError(f"transformers cannot load {path!r}: {error}") from error
        return cls(model, tokenizer, **options)

    def _facts(self) -> dict[str, Any]:
        import transformers

        config = {
            name: value
            for name, value in self._model.config.to_dict().items()
            if name not in ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
        }
        return {
            "engine": "transformers",
            "engine_version": f"{transformers.__version__} torch {self._torch.__version__}",
            "weights": self._weights_digest(),
            "tokenizer": _text_digest(_tokenizer_text(self._tokenizer)),
            "chat_template": _text_digest(str(getattr(self._tokenizer, "chat_template", None))),
            "config": json.loads(json.dumps(config, default=str)),
            # Of adapters: they are no weights.
            "attributes": attributes_of(self._model.named_modules()),
            "dtype": str(self._model.dtype),
            "device": self._model.device.type,
            "attention": str(getattr(self._model.config, "_attn_implementation", None)),
            "layers": self._layers,
            "exports": self.exports,
        }

    def _weights_digest(self) -> str:
        # What is in memory, not the files: an adapter, a merge or a quantisation is in it as well.
        seen = self._weight_signs()
        if seen == self._digests[0]:
            return self._digests[1]  # another adapter is active, and the weights are as they were
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(self._torch.uint8).numpy())
        self._digests = (seen, digest.hexdigest())
        return self._digests[1]

    def _signs(self) -> Any:
        return attributes_of(self._model.named_modules()), self._weight_signs()

    def _weight_signs(self) -> list[tuple[int, int]]:
        """Return where weights lie, and how often each was written to."""
        # Of those made in inference mode torch does not count it.
        return [
            (one.data_ptr(), 0 if one.is_inference() else one._version)  # noqa: SLF001 - there is no other way
            for one in self._model.parameters()
        ]

    # -- text --------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        return [int(one) for one in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    # -- steps -------------------------------------------------------------------------

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)

    def _step(self, sequence: CachedSequence, ids: list[int]) -> Any:
        chunk = self._torch.tensor([ids], device=self._model.device)
        with self._torch.inference_mode():
            out = self._model(
                input_ids=chunk, past_key_values=sequence.cache, use_cache=True, logits_to_keep=1
            )
        return out.logits[0, -1]

    def _chooser(self, options: Options) -> Callable[[Any], int]:
        chance = None
        if options.seed is not None:
            chance = self._torch.Generator(device=self._model.device).manual_seed(options.seed)
        return lambda scores: self._choose(scores, options, chance)

    def _choose(self, logits: Any, options: Options, chance: Any) -> int:
        if options.temperature <= 0:
            return int(logits.argmax())
        shares = (logits.float() / options.temperature).softmax(-1)
        if options.top_p < 1:
            ordered, order = shares.sort(descending=True)
            # The most probable always stays.
            ordered[ordered.cumsum(-1) - ordered > options.top_p] = 0
            return int(order[self._torch.multinomial(ordered, 1, generator=chance)])
        return int(self._torch.multinomial(shares, 1, generator=chance))

    def _cut(self, sequence: CachedSequence, count: int) -> None:
        for layer in sequence.cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys[..., :count, :]
                layer.values = layer.values[..., :count, :]

    def _halves(self, sequence: CachedSequence) -> Iterator[tuple[str, Any]]:
        for number, layer in enumerate(sequence.cache.layers):
            if layer.is_initialized:
                if "update" in vars(layer):
                    # Restored, and not stepped since: a step over nothing joins its parts.
                    layer.update(layer.keys[..., :0, :], layer.values[..., :0, :])
                yield f"{number}.k", layer.keys
                yield f"{number}.v", layer.values

    def _lengths(self, sequence: CachedSequence) -> set[int]:
        layers = [layer for layer in sequence.cache.layers if getattr(layer, "is_initialized", False)]
        # Recurrent layers know no length.
        return {layer.get_seq_length() for layer in layers} - {0}

    def _restore_blocks(self, sequence: CachedSequence, states: Sequence[State]) -> None:
        for number, layer in enumerate(sequence.cache.layers):
            if f"{number}.k" in states[0]:
                self._begin_with(layer, *([state[f"{number}.{half}"] for state in states] for half in "kv"))

    def _begin_with(self, layer: Any, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Have the next step of a layer join these parts with what it adds.

        A step copies all that a layer holds to put its own behind it. To join the parts here would be one
        more copy of the whole state. Until then the layer holds tensors of the right shape without memory.
        """
        layer.keys, layer.values = (self._shape_of(parts) for parts in (keys, values))
        layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
        layer.is_initialized = True

        def update(more_keys: Any, more_values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            count = layer.keys.shape[-2]
            layer.keys = self._joined(keys, count, more_keys)
            layer.values = self._joined(values, count, more_values)
            del layer.update  # that of its class does from now on
            return layer.keys, layer.values

        layer.update = update

    def _shape_of(self, parts: Sequence[Tensor]) -> Any:
        """Return a tensor without memory that has dtype and shape of all parts together."""
        heads, _, dim = parts[0].shape
        if any((one.dtype, one.shape[0], one.shape[2:]) != (parts[0].dtype, heads, (dim,)) for one in parts):
            raise ValueError("parts that do not fit together")
        dtype = getattr(self._torch, _TORCH[parts[0].dtype])
        count = sum(one.shape[1] for one in parts)
        return self._torch.empty((), dtype=dtype, device=self._model.device).expand(1, heads, count, dim)

    def _joined(self, parts: Sequence[Tensor], count: int, more: Any) -> Any:
        """Return the first tokens of parts, and more behind them."""
        heads, _, dim = parts[0].shape
        end = count + more.shape[-2]
        made = self._torch.empty((1, heads, end, dim), dtype=getattr(self._torch, _TORCH[parts[0].dtype]))
        numpy_kind, torch_kind = _INTEGERS[ITEM_SIZE[parts[0].dtype]]
        # Through numpy: torch takes no read-only memory, which a mapped file is.
        target = made[0].view(getattr(self._torch, torch_kind)).numpy()
        at = 0
        for part in parts:
            taken = min(part.shape[1], count - at)
            target[:, at : at + taken] = part.array(numpy_kind)[:, :taken]
            at += taken
        made = made.to(self._model.device)
        made[:, :, count:] = more
        return made

    def _snapshot(self, sequence: CachedSequence) -> State:
        """Return every tensor, number and flag of every layer: kinds of layers differ in what they keep."""
        state: dict[str, Tensor] = {}
        for number, layer in enumerate(sequence.cache.layers):
            for name, value in vars(layer).items():
                if not name.startswith("_"):
                    state.update(self._kept(f"{number}.{name}", value, type(layer).__name__))
        return state

    def _kept(self, name: str, value: Any, kind: str) -> State:
        if isinstance(value, self._torch.Tensor):
            return {name: self._exported(value)}
        if isinstance(value, int):
            return {name: Tensor("I64", (), int(value).to_bytes(8, "little", signed=True))}
        if isinstance(value, dict):
            # Recurrent layers have several states each.
            made: dict[str, Tensor] = {}
            for index, one in value.items():
                made.update(self._kept(f"{name}.{int(index)}", one, kind))
            return made
        if value is None or isinstance(value, (str, self._torch.dtype, self._torch.device)):
            return {}
        raise EngineError(f"a cache layer of kind {kind} cannot be exported")

    def _restore_snapshot(self, sequence: CachedSequence, state: State) -> None:
        layers = sequence.cache.layers
        for name, tensor in state.items():
            number, attribute, *index = name.split(".")
            layer = layers[int(number)]
            if attribute == "keys":
                dtype = getattr(self._torch, _TORCH[tensor.dtype])
                pattern = self._torch.empty(0, dtype=dtype, device=self._model.device)
                layer.lazy_initialization(pattern, pattern)
        for name, tensor in state.items():
            number, attribute, *index = name.split(".")
            layer = layers[int(number)]
            before = getattr(layer, attribute)
            home, key = (before, int(index[0])) if index else (vars(layer), attribute)
            # Numbers and flags keep their type; what is a tensor was none before, or an empty one.
            is_number = isinstance(home[key], int)
            home[key] = type(home[key])(tensor.array("<i8")) if is_number else self._tensor(tensor)
            if not is_number and getattr(layer, "dtype", None) is None:
                layer.dtype, layer.device = home[key].dtype, home[key].device

    def _tensor(self, tensor: Tensor) -> Any:
        numpy_kind, _ = _INTEGERS[ITEM_SIZE[tensor.dtype]]
        flat = self._torch.from_numpy(np.array(tensor.array(numpy_kind)).reshape(-1))
        return (
            flat.view(getattr(self._torch, _TORCH[tensor.dtype])).reshape(tensor.shape).to(self._model.device)
        )

    def _arrays(self, sequence: CachedSequence) -> Iterator[Any]:
        for layer in sequence.cache.layers:
            for value in vars(layer).values():
                for one in value.values() if isinstance(value, dict) else (value,):
                    if isinstance(one, self._torch.Tensor):
                        yield one

    def _exported(self, array: Any) -> Tensor:
        dtype = _DTYPES.get(str(array.dtype).removeprefix("torch."))
        if dtype is None:
            raise EngineError(f"a state of dtype {array.dtype} cannot be exported")
        kind = getattr(self._torch, _INTEGERS[ITEM_SIZE[dtype]][1])
        # A copy: the state goes on, and the file is written later.
        flat = array.detach().cpu().contiguous().flatten()
        return Tensor(dtype, tuple(array.shape), flat.view(kind).numpy().tobytes())


def _tokenizer_text(tokenizer: Any) -> str:
    with contextlib.suppress(AttributeError):
        return str(tokenizer.backend_tokenizer.to_str())
    return json.dumps(sorted(tokenizer.get_vocab().items()))


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _torch() -> Any:
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "transformers", "TransformersEngine") from None
    return torch
