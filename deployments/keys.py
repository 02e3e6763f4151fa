"""`millrace keys`: the keys that workers sign with, in the folder that the network's own command line uses."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer
from rich.console import Console

from millrace.settings import load_settings
from protocols.computechain.keystore import KeyInfo, Keystore

keys = typer.Typer(no_args_is_help=True, help="The keys that the worker signs with.")
computechain = typer.Typer(no_args_is_help=True, help="ComputeChain's, shared with the network's own command line.")
keys.add_typer(computechain, name="computechain")

_console = Console(highlight=False, soft_wrap=True)

Name = Annotated[str, typer.Argument(help="The key's name: letters, digits, dots, dashes and underscores.")]


@computechain.command()
def add(name: Name) -> None:
    """Make a key and keep it."""
    store = _store()
    store.add(name)
    _show(store, store.show(name))
    _console.print(f"a worker signs with it if MILLRACE_COMPUTECHAIN__KEY_NAME={name}", markup=False)


@computechain.command(name="import")
def import_key(name: Name) -> None:
    """Keep a private key, read from the terminal without showing it, or from standard input."""
    # Never from the command line: other users of the machine can read that.
    entered = getpass.getpass("private key (64 hex digits): ") if sys.stdin.isatty() else sys.stdin.readline()
    store = _store()
    store.import_key(name, entered)
    _show(store, store.show(name))


@computechain.command()
def show(name: Name) -> None:
    """Show a key's address and public key; the private key is never shown."""
    store = _store()
    _show(store, store.show(name))


@computechain.command(name="list")
def list_keys() -> None:
    """Show every key's name and address."""
    store = _store()
    for key in store.list():
        _console.print(f"{key.name}  {key.address}", markup=False)


def _show(store: Keystore, key: KeyInfo) -> None:
    _console.print(
        f"name        {key.name}\naddress     {key.address}\npublic key  {key.public_key}\n"
        f"created at  {key.created_at}\nfile        {store.folder / key.name}.json",
        markup=False,
    )


def _store() -> Keystore:
    return Keystore(load_settings().computechain.keystore)
