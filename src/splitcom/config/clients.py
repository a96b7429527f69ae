"""The settings in which single clients differ from what is set for all."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import ConfigDict, Field

from splitcom.config.links import LinkConfig
from splitcom.settings import PositiveInt, Section

_SHOWN = 6  # names in an error


class OwnConfig(Section):
    """What a client has of its own; None: as it is set for all."""

    cut: PositiveInt | None = None
    """How many blocks its front has, in place of model.cut."""
    most_cut: PositiveInt | None = None
    """The most blocks that it can hold, if cuts move; in place of federation.cuts.most."""
    rank: PositiveInt | None = None
    """The rank of its adapter, in place of lora.rank, which is the highest; its scale stays the same."""
    batch_size: PositiveInt | None = None
    """Its samples in a step, in place of training.batch_size."""
    device: Annotated[str, Field(min_length=1)] | None = None
    """Where it computes, in place of model.device. Over a network a client says so itself: join --device."""
    link: LinkConfig | None = None
    """Its link, for the virtual clock, in place of all that [links] says of clients."""


class GroupConfig(OwnConfig):
    """What several clients have of their own; what `[clients.NAME]` says of one of them goes before it."""

    names: Annotated[list[str], Field(min_length=1)]
    """Which clients: names, or patterns of names such as "phone-*"."""

    def has(self, name: str) -> bool:
        """Whether a client is one of them."""
        return any(fnmatchcase(name, pattern) for pattern in self.names)


class ClientsConfig(Section):
    """Clients that differ from what is set for all, alone in `[clients.NAME]` or as `[[clients.groups]]`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, OwnConfig] = Field(init=False)

    groups: list[GroupConfig] = Field(default=[])
    """Clients that have the same of their own; no client is in two groups."""

    @property
    def single(self) -> dict[str, OwnConfig]:
        """Those of `[clients.NAME]`, by name."""
        return self.__pydantic_extra__ or {}

    @property
    def given(self) -> bool:
        """Whether there is anything of single clients."""
        return bool(self.groups or self.single)

    def check_names(self, known: Sequence[str]) -> None:
        """Raise ValueError if something is of no client, or of two groups."""
        there_are = f"there are {', '.join(known[:_SHOWN])}{', …' if len(known) > _SHOWN else ''}"
        for name in self.single:
            if name not in known:
                raise ValueError(
                    f"clients.{name}: no such client; {there_are}; over a network name all in federation.names"
                )
        seen: dict[str, int] = {}
        for index, group in enumerate(self.groups):
            for pattern in group.names:
                fitting = [name for name in known if fnmatchcase(name, pattern)]
                if not fitting:
                    raise ValueError(
                        f"clients.groups: no client is called {pattern!r}; {there_are}; over a network name all in "
                        "federation.names"
                    )
                for name in fitting:
                    if seen.setdefault(name, index) != index:
                        raise ValueError(
                            f"clients.groups: {name} is in two groups, by {pattern!r} and "
                            f"{', '.join(map(repr, self.groups[seen[name]].names))}; take it out of one of them"
                        )

    def of(self, name: str) -> OwnConfig:
        """What a client has of its own."""
        given: list[OwnConfig] = [group for group in self.groups if group.has(name)]
        given += [self.single[name]] if name in self.single else []
        found = OwnConfig()
        for one in given:
            values = {key: getattr(one, key) for key in OwnConfig.model_fields}
            found = found.model_copy(
                update={key: value for key, value in values.items() if value is not None}
            )
        return found
