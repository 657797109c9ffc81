"""A domain whose items come from files: what the evaluator knows of it beside what it knows of a generated one.

The labels are in memory here, as those of a generated world are: this is the evaluator's side, no sandbox sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.config import Task as TaskSection
from cluster.config import TaskFiles, Training
from gpu_pool.weak_to_strong.domains import Domain, get_domain
from gpu_pool.weak_to_strong.items import Kind
from gpu_pool.weak_to_strong.tasks import Task, load_task


@dataclass(frozen=True, slots=True)
class FileSpec:
    """The fixed protocols of teachers, and of ceilings and students."""

    teacher: Training
    student: Training


@dataclass(frozen=True, slots=True)
class FileDomain:
    """A task from files under the name that the campaign gives it; `about` is what the configuration says of it."""

    name: str
    task: Task = field(repr=False)
    about: TaskFiles

    @property
    def kind(self) -> Kind:
        """The kind of its items."""
        return self.task.kind

    @property
    def spec(self) -> FileSpec:
        """Its protocols."""
        return FileSpec(self.about.teacher or self.about.protocol, self.about.protocol)


AnyDomain = Domain | FileDomain


def read_domain(section: TaskSection, name: str) -> AnyDomain:
    """The domain that a campaign calls `name`. Raises `TaskError` naming file and line of what is wrong in files."""
    if name in section.files:
        about = section.files[name]
        return FileDomain(name, load_task(about.path), about)
    return get_domain(name, section.size, section.world_seed)
