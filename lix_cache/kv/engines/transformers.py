"""transformers and torch: the reference.

Models whose layers all keep every token export blocks. Those with sliding windows or recurrent layers
export whole states, with the true length: without it transformers takes a window for the beginning of
the sequence, and is wrong in silence.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lix_cache.errors import ConfigError, EngineError, MissingExtra
from lix_cache.kv.engine import Live, Options, model_folder
from lix_cache.kv.identity import Fingerprint, fingerprint_of
from lix_cache.kv.tensors import ITEM_SIZE, State, Tensor

__all__ = ["TransformersEngine"]

#: Tokens of a prompt that are computed at a time.
_CHUNK = 512
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


@dataclass
class _Sequence(Live):
    cache: Any = None


class TransformersEngine:
    """A causal language model of transformers. Loaded by :meth:`load`, or handed over.

    Args:
        model: of ``AutoModelForCausalLM``, in evaluation mode, with adapters as they will be used.
        tokenizer: its own, with a chat template if messages are to be rendered.
        context_tokens: the most tokens of a sequence; None is what the model's config says.
        most_live: how many sequences to hold at once.
    """

    is_serial = True

    def __init__(
        self, model: Any, tokenizer: Any, *, context_tokens: int | None = None, most_live: int = 64
    ) -> None:
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
        self.fingerprint: Fingerprint = fingerprint_of(self._facts(kinds))

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

    def _facts(self, kinds: set[str]) -> dict[str, Any]:
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
            "dtype": str(self._model.dtype),
            "device": self._model.device.type,
            "attention": str(getattr(self._model.config, "_attn_implementation", None)),
            "layers": sorted(kinds),
            "exports": self.exports,
        }

    def _weights_digest(self) -> str:
        # What is in memory, not the files: an adapter, a merge or a quantisation is in it as well.
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(self._torch.uint8).numpy())
        return digest.hexdigest()

    # -- text --------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        reply: bool = True,
    ) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) if tools else None,
                add_generation_prompt=reply,
                tokenize=False,
            )
        except Exception as error:  # a template raises what it likes
            raise EngineError(f"the chat template refuses these messages ({type(error).__name__})") from error
        return str(text)

    def tokenize(self, text: str) -> list[int]:
        return [int(one) for one in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    # -- sequences ---------------------------------------------------------------------

    def begin(self) -> _Sequence:
        return _Sequence(cache=self._new_cache())

    def cut(self, live: Live, count: int) -> bool:
        sequence = _ours(live)
        if self.exports != "blocks":
            return count == len(live.ids)
        for layer in sequence.cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys[..., :count, :]
                layer.values = layer.values[..., :count, :]
        del live.ids[count:]
        self._weigh(sequence)
        return True

    def prefill(self, live: Live, ids: Sequence[int]) -> None:
        self._feed(_ours(live), ids)

    def generate(self, live: Live, ids: Sequence[int], options: Options) -> Iterator[int]:
        sequence = _ours(live)
        live.evaluated = len(ids)
        logits = self._feed(sequence, ids, options)
        chance = None
        if options.seed is not None:
            chance = self._torch.Generator(device=logits.device).manual_seed(options.seed)
        for number in range(options.max_tokens):
            token = self._choose(logits, options, chance)
            yield token
            if token in self.end_ids or number + 1 == options.max_tokens or options.is_halted:
                return
            if len(live.ids) >= self.context_tokens:
                return
            logits = self._feed(sequence, [token])

    def export(self, live: Live, first: int, end: int) -> State:
        sequence = _ours(live)
        if self.exports == "snapshots":
            if (first, end) != (0, len(live.ids)):
                raise EngineError("a state with windows or recurrent layers can only be exported whole")
            return self._snapshot(sequence)
        state = {}
        for number, layer in enumerate(sequence.cache.layers):
            if layer.is_initialized:
                state[f"{number}.k"] = _exported(layer.keys[0, :, first:end])
                state[f"{number}.v"] = _exported(layer.values[0, :, first:end])
        return state

    def restore(self, states: Sequence[State], ids: Sequence[int]) -> _Sequence:
        sequence = _Sequence(list(ids), cache=self._new_cache())
        try:
            if self.exports == "snapshots":
                self._restore_snapshot(sequence, states[0])
            else:
                self._restore_blocks(sequence, states)
        except (KeyError, ValueError, RuntimeError, IndexError) as error:
            raise EngineError(f"a state does not fit this model ({type(error).__name__})") from error
        # Recurrent layers know no length.
        lengths = {
            layer.get_seq_length()
            for layer in sequence.cache.layers
            if getattr(layer, "is_initialized", False)
        }
        if lengths - {len(ids), 0}:
            raise EngineError("a state is of another number of tokens than it says")
        self._weigh(sequence)
        return sequence

    def release(self, live: Live) -> None:
        if isinstance(live, _Sequence):
            live.cache = None
        live.ids.clear()
        live.size = 0

    def close(self) -> None:
        self._model = self._tokenizer = None
        # Modules refer to each other in circles, and the next model needs the memory now.
        gc.collect()

    # -- steps -------------------------------------------------------------------------

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)

    def _feed(self, sequence: _Sequence, ids: Sequence[int], options: Options | None = None) -> Any:
        if not ids or len(sequence.ids) + len(ids) > self.context_tokens:
            count = len(sequence.ids) + len(ids)
            raise EngineError(f"{count} tokens, where 1 to {self.context_tokens} are possible")
        logits = None
        for start in range(0, len(ids), _CHUNK):
            if options is not None and options.is_halted:
                raise EngineError("the generation was halted")
            chunk = self._torch.tensor([list(ids[start : start + _CHUNK])], device=self._model.device)
            with self._torch.inference_mode():
                out = self._model(
                    input_ids=chunk, past_key_values=sequence.cache, use_cache=True, logits_to_keep=1
                )
            logits = out.logits[0, -1]
            sequence.ids.extend(ids[start : start + _CHUNK])
        self._weigh(sequence)
        return logits

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

    def _restore_blocks(self, sequence: _Sequence, states: Sequence[State]) -> None:
        count = len(sequence.ids)
        for number, layer in enumerate(sequence.cache.layers):
            if f"{number}.k" not in states[0]:
                continue
            halves = [self._joined([state[f"{number}.{half}"] for state in states], count) for half in "kv"]
            layer.lazy_initialization(*halves)
            layer.keys, layer.values = halves

    def _joined(self, parts: Sequence[Tensor], count: int) -> Any:
        heads, _, dim = parts[0].shape
        made = self._torch.empty((1, heads, count, dim), dtype=getattr(self._torch, _TORCH[parts[0].dtype]))
        numpy_kind, torch_kind = _INTEGERS[ITEM_SIZE[parts[0].dtype]]
        # Through numpy: torch takes no read-only memory, which a mapped file is.
        target = made[0].view(getattr(self._torch, torch_kind)).numpy()
        at = 0
        for part in parts:
            end = at + part.shape[1]
            target[:, at:end] = part.array(numpy_kind)
            at = end
        if at != count or any(part.dtype != parts[0].dtype for part in parts):
            raise ValueError("parts that do not fit together")
        return made.to(self._model.device)

    def _snapshot(self, sequence: _Sequence) -> State:
        """Return every tensor, number and flag of every layer: kinds of layers differ in what they keep."""
        state: dict[str, Tensor] = {}
        for number, layer in enumerate(sequence.cache.layers):
            for name, value in vars(layer).items():
                if not name.startswith("_"):
                    state.update(self._kept(f"{number}.{name}", value, type(layer).__name__))
        return state

    def _kept(self, name: str, value: Any, kind: str) -> State:
        if isinstance(value, self._torch.Tensor):
            return {name: _exported(value)}
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

    def _restore_snapshot(self, sequence: _Sequence, state: State) -> None:
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

    def _weigh(self, sequence: _Sequence) -> None:
        values = [value for layer in sequence.cache.layers for value in vars(layer).values()]
        values += [one for value in values if isinstance(value, dict) for one in value.values()]
        tensors = [value for value in values if isinstance(value, self._torch.Tensor)]
        sequence.size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _ours(live: Live) -> _Sequence:
    if not isinstance(live, _Sequence) or live.cache is None:
        raise EngineError("a sequence of another engine, or one that was let go")
    return live


def _exported(tensor: Any) -> Tensor:
    shape = tuple(tensor.shape)
    dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None:
        raise EngineError(f"a state of dtype {tensor.dtype} cannot be exported")
    torch = _torch()
    kind = getattr(torch, _INTEGERS[ITEM_SIZE[dtype]][1])
    # A copy: the state goes on, and the file is written later.
    flat = tensor.detach().cpu().contiguous().flatten()
    return Tensor(dtype, shape, flat.view(kind).numpy().tobytes())


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
