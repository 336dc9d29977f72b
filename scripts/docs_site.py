"""What mkdocs asks while it builds the site: the parts of pages that are made from the code.

A line ``<!-- generated: NAME -->`` stands for a table or a text of PARTS, so no page repeats
what a class says. What follows ``<!-- only in a clone -->`` in the next line tells readers of the file so.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lix_cache import errors
from lix_cache.config import CacheConfig, SemanticSettings

ROOT = Path(__file__).resolve().parents[1]
#: Pages that live outside docs/, where hosts of code look for them.
BORROWED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_ROLE = re.compile(r":(?:class|meth|func|attr|data|mod):<code>(~?)([\w.]+)</code>")
#: A page that a text names by its path; what is code or a link already stays.
_PAGE = re.compile(r"(<(pre|code|a)\b.*?</\2>)|\bdocs/([\w-]+)\.md\b", re.DOTALL)
_MARK = re.compile(r"^<!-- generated: ([\w ]+) -->$", re.MULTILINE)
_IN_CLONE = re.compile(r"^<!-- only in a clone -->\n.*\n", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live outside docs/, their links turned to where the site has them."""
    for name, source in BORROWED.items():
        text = (ROOT / source).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the generated parts into a page, which then needs no word on where they are."""
    return _MARK.sub(lambda mark: PARTS[mark[1]](), _IN_CLONE.sub("", markdown))


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Turn the roles of docstrings, and the pages that they name, into links."""
    up = "../" * page.url.count("/")

    def to_page(found: re.Match[str]) -> str:
        return found[1] or f'<a href="{up}{found[3]}.html">{found[3]}</a>'

    def linked(role: re.Match[str]) -> str:
        tilde, name = role.groups()
        shown = name.rpartition(".")[2] if tilde else name
        return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'

    return _PAGE.sub(to_page, _ROLE.sub(linked, html))


def settings_table(kind: type[Any]) -> str:
    """Return a row for each field: name, type, default, and what its docstring says."""
    said = dict(_attributes(inspect.getdoc(kind) or ""))
    hints = get_type_hints(kind)
    rows = ["| setting | type | default | |", "| --- | --- | --- | --- |"]
    for one in dataclasses.fields(kind):
        default = f"`{one.default!r}`"
        rows.append(
            f"| `{one.name}` | {_type_name(hints[one.name])} | {default} | {_plain(said[one.name])} |"
        )
    return "\n".join(rows)


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names in the section Attributes of a docstring, each with its text in one line."""
    section = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    for name, meaning in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
        yield name, " ".join(meaning.split())


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_type_name(part) for part in get_args(hint))
    if get_origin(hint) is not None:
        return " or ".join(f"`{value!r}`" for value in get_args(hint))
    return "`None`" if hint is type(None) else f"`{hint.__name__}`"


def _plain(text: str) -> str:
    """Return a docstring's text as Markdown for a cell of a table."""
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`").replace("|", "\\|")


def command_line() -> str:
    """Return what ``--help`` says of every command."""
    import click
    import typer.main

    from lix_cache.cli.app import app

    def told(command: Any, names: list[str]) -> Iterator[str]:
        context = click.Context(command, info_name=" ".join(names), terminal_width=100, max_content_width=100)
        # The class's own text and not rich's, which draws boxes for terminals.
        usage = " ".join(["lix-cache", *names[1:], *command.collect_usage_pieces(context)])
        yield f"{'#' * (1 + len(names))} {' '.join(names)}\n"
        yield f"{_paragraphs(command.help or '')}\n"
        yield f"```text\n{usage}\n```\n"
        rows = [row for row in (one.get_help_record(context) for one in command.params) if row]
        if rows:
            yield "| option | |\n| --- | --- |"
            yield "\n".join(f"| `{name}` | {_cell(meaning)} |" for name, meaning in rows) + "\n"
        for name in getattr(command, "commands", {}):
            if not command.commands[name].hidden:
                yield from told(command.commands[name], [*names, name])

    return "\n".join(told(typer.main.get_command(app), ["lix-cache"]))


def _paragraphs(text: str) -> str:
    return inspect.cleandoc(text).replace("\b\n", "").replace("\f", "")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("[", "\\[")


def cache_metrics() -> str:
    """Return the metrics that the collector has for caches."""
    from prometheus_client.registry import CollectorRegistry

    from lix_cache import AsyncSemanticCache, register_metrics

    # An async cache tells its own counts alone, so no server is asked.
    collector = register_metrics(CollectorRegistry(), answers=AsyncSemanticCache())
    rows = ["| metric | kind | labels | |", "| --- | --- | --- | --- |"]
    for metric in collector.collect():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in getattr(metric, "_labelnames", ())[1:])
        rows.append(f"| `{name}` | {metric.type} | {labels} | {metric.documentation} |")
    return "\n".join(rows)


def gateway_metrics() -> str:
    """Return the metrics of the gateway, from a count of one of each."""
    from lix_cache.gateway.metrics import Metrics

    metrics = Metrics()
    metrics.answered("t", "chat", "miss", "exact", 0.0)
    for are_saved in (True, False):
        metrics.tokens("t", (1, 1), are_saved=are_saved)
    metrics.statuses[200] = metrics.not_stored["error"] = 1
    text = metrics.text({}).decode()
    rows = ["| metric | kind | labels |", "| --- | --- | --- |"]
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE):
        sample = re.search(rf"^{name}(?:_bucket)?{{(.*)}}", text, re.MULTILINE)
        labels = re.findall(r'(\w+)="', sample[1]) if sample else []
        rows.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels if label != 'le')} |")
    return "\n".join(rows)


def error_tree() -> str:
    """Return the tree that the module of errors draws."""
    drawing = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0]
    return f"```text\n{inspect.cleandoc(drawing)}\n```"


PARTS: dict[str, Callable[[], str]] = {
    "CacheConfig": lambda: settings_table(CacheConfig),
    "SemanticSettings": lambda: settings_table(SemanticSettings),
    "command line": command_line,
    "metrics of caches": cache_metrics,
    "metrics of the gateway": gateway_metrics,
    "errors": error_tree,
}
