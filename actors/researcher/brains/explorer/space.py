"""The explorer's view of the recipe space: recipes, their names and features, and the method files that carry them.

A method file written here holds its recipe as one JSON line of its docstring, so that another explorer can build on it.
That line is read as data and validated; nothing of a fetched file is ever run here.
"""

from __future__ import annotations

import ast
import hashlib
import json

from pydantic import ValidationError

from cluster.text import lines
from gpu_pool.weak_to_strong.recipes import VANILLA, Recipe, canonical, describe, method_source

MARK = "recipe: "
_DEFAULTS = VANILLA.model_dump()
_WORDS = {
    "target": "{} targets",
    "relabel": "{} labels",
    "selection": "{} items",
    "weighting": "{} weights",
    "loss": "{} loss",
    "trainable": "{} student",
}
"""Fields whose value names an idea; the others tune it."""


def changes(recipe: Recipe) -> dict[str, object]:
    """The fields in which the canonical recipe differs from vanilla."""
    return {k: v for k, v in canonical(recipe).model_dump().items() if v != _DEFAULTS[k]}


def digest(recipe: Recipe) -> str:
    """Ten hexadecimal digits that name the recipe."""
    return hashlib.sha256(json.dumps(changes(recipe), sort_keys=True).encode()).hexdigest()[:10]


def idea(recipe: Recipe) -> str:
    """The combination of building blocks, without its tuning: what is claimed on the forum."""
    different = changes(recipe)
    parts = [words.format(different[name]) for name, words in _WORDS.items() if name in different]
    parts += ["zero-shot prior"] if "prior_share" in different else []
    parts += ["curriculum"] if "curriculum" in different else []
    parts += ["ensemble"] if "members" in different else []
    parts += ["weight average"] if "ema" in different else []
    parts += ["started from a probe"] if "start" in different else []
    parts += ["half-way weights"] if "wise" in different else []
    return " + ".join(parts) or f"plain training, {recipe.epochs} epochs at {recipe.lr_scale:g} x the learning rate"


def features(recipe: Recipe) -> tuple[str, ...]:
    """The building blocks of a recipe as `field=value`; vanilla has none."""
    return tuple(f"{name}={value}" for name, value in changes(recipe).items())


def method_file(recipe: Recipe) -> str:
    """The plain method file of a recipe, with the recipe in its docstring."""
    source = method_source(recipe)
    docstring = ast.parse(source).body[0]
    rest = "\n".join(lines(source)[docstring.end_lineno :])
    line = MARK + json.dumps(changes(recipe), sort_keys=True)
    return f'"""{describe(recipe)}.\n\n{line}\n"""\n{rest}\n'


def read_recipe(text: str) -> Recipe | None:
    """The recipe in a method file, or `None` when it holds none or one outside the space."""
    try:
        docstring = ast.get_docstring(ast.parse(text)) or ""
        found = [line for line in lines(docstring) if line.startswith(MARK)]
        data = json.loads(found[0].removeprefix(MARK)) if found else None
        return canonical(Recipe.model_validate(data)) if isinstance(data, dict) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError, ValidationError):
        return None
