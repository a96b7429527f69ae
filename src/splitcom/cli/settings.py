"""`splitcom settings`: what can be set, with types, defaults and meanings."""

from typing import Annotated

import typer


def settings(
    under: Annotated[
        str, typer.Argument(metavar="[KEY]", help="A table or setting, such as training or training.lr.")
    ] = "",
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a settings file, for editors.")
    ] = False,
) -> None:
    """Show the settings of a run: type, default and meaning."""

    import json
    from difflib import get_close_matches

    from splitcom.config import Config
    from splitcom.config.reference import reference
    from splitcom.errors import ConfigError
    from splitcom.report.terminal import Table, Terminal

    terminal = Terminal()
    if schema:
        terminal.say(json.dumps(Config.model_json_schema(), indent=2))
        return
    groups = reference(under)
    if not groups:
        tables = [group.key for group in reference() if group.key]
        keys = [setting.key for group in reference() for setting in group.settings]
        close = get_close_matches(under, tables + keys, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the tables are {', '.join(tables)}"
        raise ConfigError(f"splitcom settings {under}: no such setting; {hint}")
    for group in groups:
        table = Table(title=f"[{group.key}] {group.meaning}" if group.key else group.meaning)
        for column in ("setting", "default", "type", "meaning"):
            table.add_column(column, overflow="fold")
        for setting in group.settings:
            table.add_row(setting.key.rpartition(".")[2], setting.default, setting.kind, setting.meaning)
        terminal.print(table)
