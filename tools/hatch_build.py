"""What a checkout has beside the package, a wheel carries inside it. An editable install uses the checkout's own."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CARRIED = ("conf", "cuda", "pyproject.toml", "constraints.txt")


class CarryBesidePackage(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"].update({name: f"gpt2lab/{name}" for name in CARRIED})
