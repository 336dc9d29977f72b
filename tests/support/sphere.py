"""Questions with vectors whose meaning is known: answers in pairs that lie close together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lix_cache.evaluation.questions import Question


def sphere(
    count: int, *, answers: int = 40, spread: float = 0.55, apart: float = 0.6, seed: int = 0, scope: str = ""
) -> tuple[list[Question], npt.NDArray[np.float32]]:
    """Return questions and vectors of length 1, shape (count, 24).

    Args:
        count: of the questions.
        answers: how many different ones; each has a twin that is nearer than the others.
        spread: of the paraphrases around their answer.
        apart: distance of twins.
        seed: of all that is random.
        scope: of the questions.
    """
    random = np.random.default_rng(seed)
    centres = random.normal(size=(answers, 24))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for twin in range(1, answers, 2):
        centres[twin] = centres[twin - 1] + apart * centres[twin]
        centres[twin] /= np.linalg.norm(centres[twin])
    which = random.integers(answers, size=count)
    noise = random.normal(size=(count, 24)) / np.sqrt(24)
    vectors = centres[which] + spread * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    questions = [
        Question(f"question {seed} {number}", f"answer {answer}", scope)
        for number, answer in enumerate(which)
    ]
    return questions, vectors.astype(np.float32)
