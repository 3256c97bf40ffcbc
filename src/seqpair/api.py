"""The public API behind `import seqpair`: a study, a model, an evaluation and a comparison.

Every method does what the verb of its name does, by the same code: the same progress and errors, nothing printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqpair.errors import EvaluationError, RecipeError
from seqpair.paths import EXPORT_FOLDER, run_folder
from seqpair.suite.places import find_study
from seqpair.text import checked_number, checked_text, checked_texts

if TYPE_CHECKING:
    import numpy as np
    import pandas
    from numpy.typing import NDArray

    from seqpair.compare.values import Comparison
    from seqpair.data.order.lookup import DocumentTrace, StepContent
    from seqpair.data.prepared import Prepared
    from seqpair.evaluate.probes import Probe
    from seqpair.evaluate.results import TaskResult
    from seqpair.evaluate.runner import SuiteReport
    from seqpair.models.fill import FilledMask
    from seqpair.models.generate import ContinuedText
    from seqpair.models.score import Score
    from seqpair.models.text_model import TextModel
    from seqpair.recipe.diff import Difference
    from seqpair.recipe.plan import Plan
    from seqpair.suite.study import StudyOutcome
    from seqpair.train.loop import TrainingOutcome


class Study:
    """A study: its plans, its data, its training, its order and its report.

    Args:
        recipe: A recipe file, a preset's name, a folder of runs, or a name below `runs/`.
        set: Keys of the recipe to change, such as `{"budget": "500k", "optimizer.lr": 2e-3}`.

    Raises:
        RecipeError: There is no such study, or a key or a value is not allowed.

    Attributes:
        name: The study's name.
        folder: `<runs>/<study>`; it need not exist yet.
        members: The names of its members.
    """

    def __init__(self, recipe: str | Path, set: Mapping[str, object] | None = None) -> None:
        try:
            overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in dict(set or {}).items()]
        except (TypeError, ValueError) as error:
            raise RecipeError(
                "a key is set to what a recipe cannot contain",
                seen=error,
                allowed='a mapping such as {"budget": "500k"}',
            ) from error
        self._place = find_study(_path(recipe, "a study"), overrides)
        self.name = self._place.name
        self.folder = self._place.folder
        self.members = self._place.members

    def plan(self, member: str = "") -> Plan:
        """Return a member's plan, with every step count, rate and path explicit.

        Args:
            member: The member; it may be left out where there is only one.
        """
        return self._place.plan(checked_text(member, "a member's name"))

    def diff(self, first: str = "encoder", second: str = "decoder") -> list[Difference]:
        """Return every difference between two members' plans, each with its declared reason.

        Raises:
            RecipeError: A difference is not declared by the objectives table.
        """
        from seqpair.recipe.diff import diff_plans, require_declared

        plans = self._place.plans(checked_texts([first, second], "the members"))
        differences = diff_plans(plans[first], plans[second])
        require_declared(differences, (first, second))
        return differences

    def prepare(self) -> Prepared:
        """Make the stores and the tokenizer, or open those that exist."""
        from seqpair.suite.study import prepare_part

        return prepare_part(self._place.data)

    def train(self, member: str) -> TrainingOutcome:
        """Train one member to the end of its plan; a run that was interrupted resumes.

        Raises:
            StoreError: The data is not prepared.
        """
        from seqpair.suite.training import train_part

        return train_part(self.plan(member), self._place.open_data())

    def export(self, member: str) -> Path:
        """Export a member's last checkpoint to its Hugging Face class and return the folder.

        Raises:
            CheckpointError: The member has no checkpoint.
            ExportError: The export would not compute what the model computes; nothing was written.
        """
        from seqpair.suite.study import export_part

        export_part(plan := self.plan(member))
        return run_folder(plan) / EXPORT_FOLDER

    def run(self, members: Sequence[str] = (), *, workers: int = 1) -> StudyOutcome:
        """Prepare, train, export, evaluate and report; what is done is skipped.

        Args:
            members: Only these, and those they start from; all if empty.
            workers: Members that train at the same time; more than one needs `if __name__ == "__main__":` in a script.
        """
        from seqpair.suite.study import run_study

        workers = checked_number(workers, "workers", 1)
        return run_study(self._place, checked_texts(members, "the members"), workers=workers)

    def order(
        self, *, step: int | None = None, document: str | None = None, phase: str = "", source: str = ""
    ) -> StepContent | list[DocumentTrace]:
        """Return which documents a training step contains, or when a document is read.

        All members that train from scratch share the order. It is computed from the plan and the prepared stores;
        nothing has to be trained.

        Args:
            step: A step, counted from 0 in its phase.
            document: A document's id.
            phase: The phase; it may be left out where there is only one.
            source: Look for the document in this source only.

        Raises:
            RecipeError: Not exactly one of `step` and `document` was given, or there is no such phase.
            DataError: There is no such document.
        """
        from seqpair.data.order.lookup import step_content, trace_document

        if step is not None:
            checked_number(step, "a step", 0)
        if (step is None) == (document is None):
            raise RecipeError(
                "order was asked for more or fewer things than one",
                seen=f"step={step}, document={document}",
                allowed="one of them",
            )
        plan = self.plan(self.members[0])
        phases = [one for one in plan.phases if phase in ("", one.name)]
        if not phases or (step is not None and len(phases) > 1):
            raise RecipeError(
                "a step was given without its phase",
                seen=f"phase={phase!r}",
                allowed=", ".join(one.name for one in plan.phases),
            )
        prepared = self._place.open_data()
        if step is not None:
            return step_content(plan, phases[0], step, prepared)
        return trace_document(plan, phases, str(document), source, prepared)

    def report(self) -> Path:
        """Write the report and return its page.

        Raises:
            EvaluationError: No member has run.
        """
        from seqpair.report.collect import collect_study
        from seqpair.report.page import write_report

        return write_report(collect_study(self.folder))


class Model:
    """A trained model in use: a member of a study, or any Hugging Face encoder or decoder.

    Attributes:
        name: The name it was opened by.
        direction: `bidirectional` (an encoder) or `causal` (a decoder).
        max_tokens: The longest row it reads, special tokens included.
    """

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self.name = model.name
        self.direction: Literal["bidirectional", "causal"] = model.direction
        self.max_tokens: int = model.max_tokens

    def score(self, contexts: Sequence[str], continuations: Sequence[str]) -> list[Score]:
        """Return log P(continuation | context) in nats for each pair; a context may be empty.

        An encoder fills masks from left to right (see docs/evaluation.md), so its numbers are a rule's, not a
        probability's.

        Raises:
            EvaluationError: The two lists have different lengths, or a continuation is empty.
        """
        from seqpair.models.score import score_continuations

        contexts = checked_texts(contexts, "the contexts")
        continuations = checked_texts(continuations, "the continuations")
        if len(contexts) != len(continuations):
            seen = f"{len(contexts)} contexts, {len(continuations)} continuations"
            raise EvaluationError("every continuation needs a context", seen=seen, fix="give two lists of one length")
        return score_continuations(self._model, list(zip(contexts, continuations, strict=True)))

    def embed(self, texts: Sequence[str], pooling: str = "default", *, normalise: bool = False) -> NDArray[np.float32]:
        """Return one vector per text, (n, D).

        Args:
            texts: The texts; one longer than the model reads is cut on the right.
            pooling: `mean`, `mean-text` (without special tokens), `cls` or `last`; by default the mean of an encoder's
                states and the last of a decoder's.
            normalise: Scale every vector to length 1.
        """
        from seqpair.models.embed import embed_texts

        return embed_texts(self._model, checked_texts(texts, "the texts"), pooling, normalise=normalise).vectors

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int = 64, *, temperature: float = 0.0, seed: int = 0
    ) -> list[ContinuedText]:
        """Continue texts: with a decoder up to its end token, with an encoder by exactly so many tokens.

        Args:
            prompts: The texts to continue.
            max_new_tokens: Most tokens to add.
            temperature: 0 takes the likeliest token; above 0 tokens are sampled.
            seed: Of the sampling.

        Raises:
            EvaluationError: A prompt leaves no room.
        """
        from seqpair.models.generate import continue_texts
        from seqpair.nn.decode.generate import Sampling

        tokens = checked_number(max_new_tokens, "max_new_tokens", 0)
        sampling = Sampling(temperature, seed=seed)
        return continue_texts(self._model, checked_texts(prompts, "the prompts"), tokens, sampling)

    def fill(self, text: str, top: int = 5) -> list[FilledMask]:
        """Return the likeliest tokens at each mask of a text, for an encoder.

        Raises:
            EvaluationError: The model is a decoder, or the text has no mask.
        """
        from seqpair.models.fill import fill_masks

        return fill_masks(self._model, text, checked_number(top, "top", 1))


def probe(
    model: Model,
    texts: Sequence[str],
    labels: Sequence[str] | Sequence[int] | Sequence[float],
    pairs: Sequence[str] | None = None,
) -> Probe:
    """Say what the frozen states of each layer tell about labels, by linear probes (docs/evaluation.md).

    A fifth of the rows is kept apart and reported.

    Args:
        model: A model from `load`.
        texts: The texts, (n,).
        labels: A class of each, as a text or a whole number, or a number with a fraction part to be predicted.
        pairs: A second text of each, (n,), where the label is about two.

    Returns:
        The value of the chosen layer, and of every layer.

    Raises:
        EvaluationError: The lengths differ, there are too few rows, or one class only.
    """
    from seqpair.evaluate.probes import given_set, probe_set

    if not isinstance(model, Model):
        raise EvaluationError(
            "a probe reads a model that `load` returned", seen=type(model).__name__, allowed="a model, not its path"
        )
    return probe_set(model._model, given_set(checked_texts(texts, "the texts"), labels, pairs))


def load(place: str | Path, device: str = "auto") -> Model:
    """Open a trained model; nothing that a folder's record claims is believed unchecked.

    Args:
        place: A run's folder, a checkpoint, an export, a Hugging Face folder, or a name on the hub (`name@revision`).
        device: `auto` takes a GPU where there is one.

    Raises:
        EvaluationError: There is no such model, or its files are damaged.
    """
    from seqpair.models.open import open_model
    from seqpair.models.place import find_model

    return Model(open_model(find_model(_path(place, "a model")), device=device))


def _path(place: object, what: str) -> str | Path:
    if not isinstance(place, str | Path):
        raise RecipeError(f"{what} is not a path or a name", seen=f"{place!r}"[:80], allowed="a text or a path")
    return place


class Evaluation:
    """Results of models on tasks.

    Attributes:
        results: Every result, model by model.
        skipped: Why a task was not run, by `model: task`.
        folders: Where each model's results and items lie.
    """

    def __init__(self, results: Sequence[TaskResult], skipped: Mapping[str, str], folders: Sequence[Path]) -> None:
        self.results = list(results)
        self.skipped = dict(skipped)
        self.folders = list(folders)

    def __iter__(self) -> Iterator[TaskResult]:
        """Iterate over the results."""
        return iter(self.results)

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per model and task (needs pandas)."""
        columns = ("model", "member", "suite", "task", "metric", "value", "standard_error", "chance", "n")
        return _frame([{name: getattr(result, name) for name in columns} for result in self.results])


def evaluate_models(
    models: str | Path | Sequence[str | Path],
    suites: Sequence[str] = ("all",),
    data: str | Path = "data/eval",
    *,
    tasks: Sequence[str] = (),
    tasks_file: str | Path | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> Evaluation:
    """Run models through suites of tasks; a result of the same weights, task, choices and data is not computed again.

    Args:
        models: One place or several, as `load` takes them.
        suites: Names of suites, or `all`; `own` is a study's own held-out text.
        data: The folder with the suites' data files.
        tasks: Only these tasks of the suites.
        tasks_file: A YAML file that declares more tasks, which join those of the suites (docs/evaluation.md).
        limit: Most items per task.
        out: A folder for the results; by default beside each export.
        device: Where the models run.

    Raises:
        EvaluationError: There is no such suite or model, or a task failed.
    """
    from seqpair.evaluate.registry import choose_tasks, require_data, require_results
    from seqpair.evaluate.runner import require_own_folders, results_folder, run_models
    from seqpair.evaluate.task import TaskContext
    from seqpair.models.place import find_model

    given = [models] if isinstance(models, str | Path) else list(models)
    if not given:
        raise EvaluationError("no model was named", seen="an empty list", allowed="one place or more")
    places = [find_model(_path(name, "a model")) for name in given]
    chosen = choose_tasks(list(suites), list(tasks), None if tasks_file is None else Path(tasks_file))
    require_data(Path(data), chosen)
    context = TaskContext(Path(data), None if limit is None else checked_number(limit, "limit", 1))
    folders = [results_folder(place, context, None if out is None else Path(out)) for place in places]
    require_own_folders(folders)
    reports: list[SuiteReport] = []
    results: list[TaskResult] = []
    skipped: dict[str, str] = {}
    for report in run_models(places, chosen, context, folders, device=device):
        if report.failed:
            name = report.failed[0]
            what, again = f"the task {name} failed on {report.model}", "call it again; finished tasks are kept"
            raise EvaluationError(what, seen=report.skipped[name], fix=again)
        reports.append(report)
        results += report.results
        skipped |= {f"{report.model}: {task}": reason for task, reason in report.skipped.items()}
    require_results(reports, chosen, suites, tasks)
    return Evaluation(results, skipped, folders)


class Comparisons:
    """Who is ahead on which task and how sure that is.

    Attributes:
        answers: One for each question, pair and task.
    """

    def __init__(self, answers: Sequence[Comparison]) -> None:
        self.answers = list(answers)

    def __iter__(self) -> Iterator[Comparison]:
        """Iterate over the answers."""
        return iter(self.answers)

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per question, pair and task: difference, interval, p, verdict (needs pandas)."""
        rows = []
        for answer in self.answers:
            found = answer.difference
            row: dict[str, Any] = {
                "question": answer.question,
                "task": ", ".join(task.name for task in answer.tasks),
                "metric": ", ".join(dict.fromkeys(task.metric for task in answer.tasks)),
                "first": f"{answer.first.size} {answer.first.member}".strip(),
                "second": f"{answer.second.size} {answer.second.member}".strip(),
                "verdict": answer.verdict,
                "reason": answer.reason,
            }
            names = ("value", "low", "high", "p", "p_adjusted", "seeds", "items", "scope", "method")
            rows.append(row | {name: getattr(found, name) if found is not None else None for name in names})
        return _frame(rows)


def compare_members(results: str | Path | Study, also: Sequence[str | Path] = ()) -> Comparisons:
    """Compare the members of a study on every task that two of them did.

    Args:
        results: A study, as `Study` takes it, or the folder of one or of several seeds.
        also: More studies, or folders of results of models from elsewhere.

    Raises:
        EvaluationError: There are no results.
    """
    from seqpair.compare.questions import answers_of
    from seqpair.report.collect import collect_study, scores_of_members
    from seqpair.suite.places import find_study_folder

    folder = results.folder if isinstance(results, Study) else find_study_folder(results)
    study = collect_study(folder, [Path(one) for one in also])
    return Comparisons(answers_of(scores_of_members(study.members)))


def _frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise EvaluationError("a data frame needs pandas", seen=str(error), fix="pip install pandas") from error
    return pandas.DataFrame(rows)
