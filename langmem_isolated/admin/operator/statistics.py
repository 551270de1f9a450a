"""Statistics: the overview with charts by day, and projects with their modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from langmem_isolated.admin.operator.charts import Chart, chart
from langmem_isolated.admin.operator.pages import Here, Page
from langmem_isolated.admin.web.endpoints import Visit
from langmem_isolated.admin.web.templates import size
from langmem_isolated.lifecycle import Day, ModuleStats, ScopeStats, Stats, Tokens, Totals

DAYS = 30
_LARGEST = 10


@dataclass(frozen=True, slots=True)
class Overview:
    """How much there is, and what happened in the last 30 days."""

    total: Totals
    days: list[Day]
    tokens: list[Tokens]
    """What models were asked, as far as they told."""

    @property
    def charts(self) -> list[Chart]:
        """What the page draws."""
        return charts(self.days, self.tokens)

    @property
    def models(self) -> list[tuple[str, int, int, int]]:
        """Models with answers, input and output tokens, those with the most first."""
        return models(self.tokens)


def charts(days: list[Day], tokens: Iterable[Tokens]) -> list[Chart]:
    """Messages, users, growth and tokens by day."""
    used = _tokens_by_day(tokens)
    return [
        chart("Messages", ["messages"], [(day.day, [day.messages]) for day in days]),
        chart(
            "Active users",
            ["users"],
            [(day.day, [day.active_users]) for day in days],
            is_summed=False,
        ),
        chart("Growth", ["added"], [(day.day, [day.bytes]) for day in days], size),
        chart("Tokens", ["input", "output"], [(day.day, used[day.day]) for day in days]),
    ]


def _tokens_by_day(tokens: Iterable[Tokens]) -> defaultdict[date, list[int]]:
    used: defaultdict[date, list[int]] = defaultdict(lambda: [0, 0])
    for one in tokens:
        used[one.day][0] += one.input_tokens
        used[one.day][1] += one.output_tokens
    return used


def models(tokens: Iterable[Tokens]) -> list[tuple[str, int, int, int]]:
    """Answers, input and output tokens of each model."""
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for one in tokens:
        for place, more in enumerate((one.answers, one.input_tokens, one.output_tokens)):
            found[one.model][place] += more
    listed = [(model, counts[0], counts[1], counts[2]) for model, counts in found.items()]
    return sorted(listed, key=lambda row: (-row[2] - row[3], row[0]))


def _overview(here: Here, _visit: Visit[str]) -> Overview:
    stats = here.memory.stats(days=DAYS)
    return Overview(stats.total, stats.days, stats.tokens)


@dataclass(frozen=True, slots=True)
class ProjectShown:
    """A project and its modules."""

    project_id: str
    totals: Totals
    modules: list[ModuleStats]
    tokens: int
    """Of its models in the last 30 days, input and output."""
    reference: str = field(repr=False, default="")
    """Stands for it in the path of its users' list."""


@dataclass(frozen=True, slots=True)
class Projects:
    """All projects, and the scopes with the most bytes, which nobody is named by."""

    projects: list[ProjectShown]
    largest: list[ScopeStats]


def _projects(here: Here, visit: Visit[str]) -> Projects:
    stats = here.memory.stats(days=DAYS, largest=_LARGEST)
    shown = [_project(stats, project, visit) for project in sorted(stats.projects)]
    return Projects(shown, stats.largest)


def _project(stats: Stats, project: str, visit: Visit[str]) -> ProjectShown:
    tokens = [one for one in stats.tokens if one.project == project]
    return ProjectShown(
        project,
        stats.projects[project],
        [one for one in stats.modules if one.project == project],
        sum(one.input_tokens + one.output_tokens for one in tokens),
        visit.signer.reference("project", project),
    )


PAGES = (
    Page("/", "overview", "Overview", _overview, Overview, api="/stats"),
    Page("/projects", "projects", "Projects and modules", _projects, Projects),
)
