"""Reads a file of questions that were written before anything was measured.

```yaml
written: 2026-11-25, before any model was evaluated
questions:
  grammar: {tasks: [blimp]}
  masked tokens: {tasks: [masked_accuracy], first: biphasic, second: encoder}
  retrieval and similarity: {tasks: [xquad_passages, stsb_vectors]}
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from seqpair.compare.planned import PlannedQuestion
from seqpair.errors import EvaluationError


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tasks: list[str] = Field(min_length=1)
    first: str = "encoder"
    second: str = "decoder"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    questions: dict[str, _Question] = Field(min_length=1)
    written: str = ""


@dataclass(frozen=True)
class AskedBefore:
    """A file's content.

    Attributes:
        questions: The questions, in the file's order.
        written: When it was written, as the file says; empty where it does not.
    """

    questions: tuple[PlannedQuestion, ...]
    written: str = ""


def read_questions(path: Path) -> AskedBefore:
    """Return the questions of a file.

    Args:
        path: A YAML file: `questions`, a mapping of a name to `tasks`, and `first` and `second` where they are not
            the encoder and the decoder; and `written`, if it says when it was written.

    Raises:
        EvaluationError: There is no such file, it is not of this form, or a question names one member twice.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        read = _File.model_validate(content)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read", seen=error.strerror, fix="name a file of questions") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} is no YAML", seen=str(error).splitlines()[0]) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise EvaluationError(
            f"{path}: {place}: {first['msg'][:1].lower()}{first['msg'][1:]}",
            seen=first["input"],
            allowed="`questions`, each a name with `tasks`, perhaps `first` and `second`; and `written`",
        ) from error
    found = []
    for name, question in read.questions.items():
        if question.first == question.second:
            raise EvaluationError(
                f"{path}: the question '{name}' holds a member against itself", seen=question.first, fix="name two"
            )
        found.append(PlannedQuestion(name, tuple(dict.fromkeys(question.tasks)), question.first, question.second))
    return AskedBefore(tuple(found), read.written)
