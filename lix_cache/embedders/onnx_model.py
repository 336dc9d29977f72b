"""An ONNX model with its tokenizer: tokens in, the model's output out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lix_cache.embedders.protocol import encodable
from lix_cache.errors import LixCacheError, MissingExtra

if TYPE_CHECKING:
    from lix_cache.embedders.model_files import ModelFiles

__all__ = ["OnnxModel", "token_limit"]

_DEFAULT_LIMIT = 512
#: What a tokenizer's settings hold for "no limit" is 10^30.
_LARGEST_LIMIT = 1 << 20
#: The outputs that hold the vectors, the best first. Another name will do, if it is the first.
_OUTPUTS = ("sentence_embedding", "logits", "last_hidden_state", "token_embeddings")
_INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_FATAL_ONLY = 4


def token_limit(files: ModelFiles) -> int:
    """Return how many tokens a model reads, as its files say it; the smallest of what they say."""
    said = [
        files.configs.get("sentence_bert_config.json", {}).get("max_seq_length"),
        files.configs.get("tokenizer_config.json", {}).get("model_max_length"),
        files.configs.get("config.json", {}).get("max_position_embeddings"),
        files.tokenizer_limit(),
    ]
    limits = [int(n) for n in said if isinstance(n, (int, float)) and 0 < n <= _LARGEST_LIMIT]
    return min(limits, default=_DEFAULT_LIMIT)


class OnnxModel:
    """A loaded model. Threads may share it.

    Args:
        files: where it is.
        max_tokens: longer texts are cut.
        threads: processor threads for one run; None for onnxruntime's choice.
        error: raised for whatever is wrong with the model.

    Raises:
        MissingExtra: onnxruntime or tokenizers is not installed.
    """

    def __init__(
        self, files: ModelFiles, max_tokens: int, threads: int | None, error: type[LixCacheError]
    ) -> None:
        self._error = error
        self._name = files.name
        self._tokenizer = self._load_tokenizer(files.tokenizer, max_tokens)
        self._session = self._load_session(files.model, threads)
        self._inputs = {i.name: "int32" if "int32" in i.type else "int64" for i in self._session.get_inputs()}
        unknown = sorted(set(self._inputs) - set(_INPUTS))
        if unknown or "input_ids" not in self._inputs:
            raise error(
                f"the model {files.model!r} wants the inputs {sorted(self._inputs)}; "
                f"a text model wants input_ids, and of the others only {sorted(_INPUTS)}"
            )
        outputs = [output.name for output in self._session.get_outputs()]
        self._output = next((name for name in _OUTPUTS if name in outputs), outputs[0])

    def _load_tokenizer(self, path: str, max_tokens: int) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtra("tokenizers", "onnx", f"the ONNX model {self._name!r}") from None
        try:
            tokenizer = Tokenizer.from_file(path)
            self._padding = _padding_id(tokenizer)
            tokenizer.no_padding()
            tokenizer.enable_truncation(max_tokens)
        except Exception as cause:  # the library raises bare Exception
            raise self._error(f"{path!r} is not a tokenizer: {cause}") from cause
        return tokenizer

    def _load_session(self, path: str, threads: int | None) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime", "onnx", f"the ONNX model {self._name!r}") from None
        options = onnxruntime.SessionOptions()
        # It would write to stderr; what goes wrong is raised.
        options.log_severity_level = _FATAL_ONLY
        options.inter_op_num_threads = 1
        if threads is not None:
            options.intra_op_num_threads = threads
        # Waiting threads that spin take the processor away from all other threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # its errors have no base but Exception
            raise self._error(f"{path!r} is not a model that onnxruntime can load: {cause}") from cause

    def tokens(self, text: str, second: str | None = None) -> Any:
        """Return a text's tokens, or those of a pair of texts.

        One text at a time, in the calling thread: the library's own threads would warn
        after every fork, and tokens cost little beside the model.
        """
        pair = None if second is None else encodable(second)
        return self._tokenizer.encode(encodable(text), pair)

    def run(self, tokens: list[Any]) -> tuple[Any, Any]:
        """Run the model on the tokens of some texts.

        Returns:
            The output, shape (n, ...), and the attention mask, shape (n, tokens).
        """
        import numpy as np

        width = max((len(t.ids) for t in tokens), default=0)
        mask = np.zeros((len(tokens), width), dtype=np.int64)
        for row, encoding in zip(mask, tokens, strict=True):
            row[: len(encoding.ids)] = encoding.attention_mask
        feed: dict[str, Any] = {}
        for name, kind in self._inputs.items():
            array = np.full((len(tokens), width), self._padding if name == "input_ids" else 0, dtype=kind)
            for row, encoding in zip(array, tokens, strict=True):
                row[: len(encoding.ids)] = getattr(encoding, _INPUTS[name])
            feed[name] = array
        try:
            output = self._session.run([self._output], feed)[0]
        except Exception as cause:  # its errors have no base but Exception
            raise self._error(
                f"the model {self._name!r} failed: {type(cause).__module__}.{type(cause).__qualname__}"
            ) from cause
        return np.asarray(output, dtype=np.float32), mask


def _padding_id(tokenizer: Any) -> int:
    """Return the token that fills up short texts; masked, but some models count positions by it."""
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    known = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((number for number in known if number is not None), 0)
