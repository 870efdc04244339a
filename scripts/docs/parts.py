"""Griffe reads source without running it; these are the names that exist at run time all the same."""

from __future__ import annotations

from griffe import Alias, Class, Extension, Function, Module, Object

HOMES = ("compress", "exchange", "memory", "outer")


class PublicNames(Extension):
    """Public names as `import gradwire` has them.

    `gradwire.compress` has the name `TopK` because `@part("topk", ...)` stands above `gradwire.compress.topk.TopK`. And
    `gradwire.local` is the function, although `gradwire.doors` has a module of that name beside it.
    """

    def on_package(self, *, pkg: Module, **_: object) -> None:
        """Called by griffe when all modules of a package have been read."""
        if pkg.name != "gradwire":
            return
        for home in HOMES:
            _collect(pkg[home], pkg[home])
        for name, path in pkg["public"].imports.items():
            if path != f"{pkg.name}.{name}":  # a module of its own
                pkg.set_member(name, Alias(name, _origin(pkg, path), parent=pkg))


def _collect(home: Module, module: Module) -> None:
    for name, member in list(module.members.items()):
        if isinstance(member, Module):
            _collect(home, member)
        elif isinstance(member, Class | Function) and any("part(" in str(one.value) for one in member.decorators):
            home.set_member(name, Alias(name, member, parent=home))


def _origin(pkg: Module, path: str) -> Object | Alias:
    """What is defined at gradwire.module.name, or where that module has imported it from."""
    home, name = path.rsplit(".", 1)
    module = pkg if home == pkg.name else pkg[home.removeprefix(f"{pkg.name}.")]
    return _origin(pkg, module.imports[name]) if name in module.imports else module[name]
