"""Every setting of a worker, as one typed object.

Read from the environment and from `.env` in the working directory. A setting's own name is
`MILLRACE_<SECTION>__<FIELD>`; the names that the public workers use are accepted beside it, so that an
operator's `.env` keeps working.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from millrace.errors import Permanent
from millrace.limits import MIB, Limits


def _split(value: Any) -> Any:
    """A comma- or space-separated string as a list; anything else unchanged."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several names in one environment variable, separated by commas or spaces."""

Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
"""Several secrets in one environment variable, separated by commas or spaces."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SandboxSettings(_Section):
    """How strangers' code is run."""

    backend: Literal["bubblewrap", "docker", "wasi"] = Field(
        default="bubblewrap", description="The sandbox; there is no unsandboxed one. `wasi` needs `millrace wasi fetch`"
    )
    python: Path | None = Field(default=None, description="Interpreter jobs run on; the system's python3 when unset")
    first_uid: int = Field(default=61_000, ge=1_000, description="As root: uid of slot 0; slot n runs as first_uid + n")
    slots: int = Field(default=64, ge=1, le=500, description="As root: how many uids may be in use at once")
    docker_host: str = Field(default="", description="Docker: unix:// address of the daemon; DOCKER_HOST when unset")
    runtime: str = Field(default="runc", description="Docker: the runtime; runsc (gVisor) is the stronger one")
    image: str = Field(
        default="",
        description="Docker: image with a Python, pinned by digest or id; made of the machine's Python when unset",
    )
    wasi_python: Path | None = Field(
        default=None,
        description="For `wasi`: a build of CPython of your own, one file with the standard library inside",
    )
    wasi_python_sha256: str = Field(
        default="", pattern=r"^([0-9a-f]{64})?$", description="For `wasi`: the SHA-256 of that file, in hex"
    )

    @model_validator(mode="after")
    def _a_build_of_ones_own_has_a_hash(self) -> Self:
        if self.wasi_python is not None and not self.wasi_python_sha256:
            raise ValueError("wasi_python needs wasi_python_sha256, the hash of the file it names")
        return self


class IpfsSettings(_Section):
    """Where content comes from and goes to."""

    gateways: Names = Field(
        default=("https://ipfs.io", "https://dweb.link", "https://trustless-gateway.link"),
        description="Gateways to read from, the best so far first; every byte is verified against its CID",
    )
    allow_private_gateways: bool = Field(default=False, description="Allow http and private addresses for gateways")
    daemon: str = Field(default="", description="Multiaddr or URL of a kubo RPC daemon, e.g. /ip4/127.0.0.1/tcp/5001")
    pinata_jwt: SecretStr | None = Field(default=None, description="Pinata token; results are pinned there when set")
    pinata_api: str = Field(default="https://api.pinata.cloud", description="Base URL of Pinata's API")
    pinning_service: str = Field(
        default="", description="Base URL of a Pinning Service API, which fetches results from the daemon or Pinata"
    )
    pinning_service_token: SecretStr | None = Field(default=None, description="Its access token")
    timeout_seconds: float = Field(default=60.0, gt=0, description="Deadline for fetching or uploading one content")
    max_bytes: int = Field(default=64 * MIB, gt=0, description="Largest content fetched")
    max_blocks: int = Field(default=4096, gt=0, description="Most blocks in one content")
    max_depth: int = Field(default=32, gt=0, description="Deepest DAG followed")
    quota_bytes: int = Field(
        default=10 * 1024 * MIB, gt=0, description="Room for the embedded store; least recently used content goes first"
    )


class CloudMeshSettings(_Section):
    """The CloudMesh network on Solana."""

    program_id: str = Field(default="", description="The job program's address; three circulate, so no default")
    rpc_urls: Names = Field(
        default=(),
        repr=False,  # an endpoint's path may be a provider's key
        description="Solana RPC endpoints: all are read from, one is sent through until it fails",
    )
    genesis_hash: str = Field(default="", description="Expected genesis hash; the first endpoint's answer when unset")
    keypair_path: Path = Field(default=Path("worker-keypair.json"), description="JSON array of 64 integers, mode 0600")
    cost_lamports: int = Field(default=1_000_000, gt=0, description="Price claimed for a job")
    cost_policy: str = Field(default="fixed", description="How the price is found; see stages/submit/cost.py")
    owners: Names = Field(default=(), description="Serve only these owners' jobs; everybody's when empty")
    priority_fee_floor: int = Field(default=0, ge=0, description="Micro-lamports per compute unit, at least")
    priority_fee_cap: int = Field(default=1_000_000, ge=0, description="Micro-lamports per compute unit, at most")
    priority_fee_percentile: int = Field(default=75, ge=0, le=100, description="Percentile of recent fees to pay")
    code_bytes: int = Field(default=MIB, gt=0, description="Largest program fetched")


class ComputeChainSettings(_Section):
    """The ComputeChain network."""

    rpc_urls: Names = Field(
        default=(),
        repr=False,  # an address may hold a provider's key
        description="Nodes to ask, the first one until it fails; empty leaves the network out",
    )
    chain_id: str = Field(
        default="", description="Expected chain id, as in a block's header; nothing is signed for another. Required"
    )
    key_name: str = Field(default="", description="Name of the worker's key in the keystore")
    keystore: Path = Field(
        default=Path("~/.computechain/keys"), description="Folder with the keys, shared with the network's own CLI"
    )
    gas_price: int = Field(default=0, ge=0, description="Wei for a unit of gas; 0 is the network's minimum")
    every_blocks: int = Field(default=1, ge=1, description="Take the challenge of each n-th block")
    backlog_blocks: int = Field(default=20, ge=1, description="How many missed blocks are caught up on, at most")
    balance_floor_wei: int = Field(default=0, ge=0, description="No challenge is taken while the balance is below this")
    confirmations: int = Field(default=3, ge=1, description="Blocks, its own included, until a result counts as final")
    algorithm: Literal["matmul-i32-v1", "matmul-f64-cupy"] = Field(
        default="matmul-i32-v1",
        description="The challenge; `matmul-f64-cupy`, the public sample, is not portable and cannot be checked",
    )
    size: int = Field(default=4096, ge=1, le=65_535, description="Side n of the matrices")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda:[0-9]+)$",
        description="auto (a free GPU, else the CPU), cpu or cuda:0",
    )
    sampled_rows: int = Field(default=16, ge=1, le=256, description="Rows of the product that the proof shows")
    solve_seconds: float = Field(default=600.0, gt=0, description="Wall-clock time before a challenge is given up")


class ValidatorSettings(_Section):
    """A PoC validator that pushes jobs; ComputeChain's section says on which device they are done."""

    url: str = Field(
        default="",
        repr=False,  # its path may be a key
        description="ws or wss: jobs are pushed; http or https: they are asked for. Empty: no validator is served",
    )
    token: SecretStr | None = Field(default=None, description="Bearer token, if the validator wants one")
    worker_address: str = Field(default="", description="Address to answer for; the ComputeChain key's when unset")
    poll_seconds: float = Field(default=5.0, gt=0, description="Over http: wait between two questions for jobs")
    ping_seconds: float = Field(
        default=20.0, gt=0, description="Over ws: between pings, and the patience for an answer"
    )
    backlog: int = Field(default=100, ge=1, description="Jobs that may wait; the next one is refused as `busy`")
    job_seconds: float = Field(default=3600.0, gt=0, description="A job without an answer for so long is refused")
    largest_size: int = Field(default=16_384, ge=1, le=65_535, description="Largest side n that is accepted")


class NearSettings(_Section):
    """OffchainVM / OutLayer: a contract on NEAR whose requests are answered."""

    rpc_urls: Names = Field(
        default=(),
        repr=False,  # an address may hold a provider's key
        description="NEAR RPC nodes to ask, the first one until it fails; empty leaves the network out",
    )
    neardata_url: str = Field(
        default="",
        repr=False,  # a query may be a key
        description="neardata server that blocks are read from; the RPC nodes themselves when unset",
    )
    contract_id: str = Field(default="", description="The contract's account, outlayer.testnet for instance")
    dialect: Literal["auto", "early", "head"] = Field(
        default="auto", description="Which contract it is: early (October 2025) or head; auto asks it"
    )
    account_id: str = Field(default="", description="The worker's account, which the contract knows as its operator")
    private_keys: Secrets = Field(
        default=(),
        description="Access keys of that account, ed25519:…; each further one is a lane of its own for transactions",
    )
    credentials: Path | None = Field(
        default=None, description="Or a credentials file of near-cli, mode 0600, which names account and key"
    )
    start_block: int = Field(
        default=0, ge=0, description="Height to read from when nothing was read before; 0 is the newest final block"
    )
    event_standards: Names = Field(
        default=("near-offshore", "near-outlayer"), description="Names that the contract's events may be under"
    )
    senders: Names = Field(default=(), description="Serve only these accounts' requests; everybody's when empty")
    balance_floor_yocto: int = Field(
        default=0, ge=0, description="No request is taken while the balance would fall below this, in yoctoNEAR"
    )
    most_instructions: int = Field(default=500_000_000_000, ge=1, description="Most that a request may ask for")
    most_memory_mb: int = Field(default=512, ge=1, le=4096, description="Most that a request may ask for, in MiB")
    most_seconds: int = Field(default=180, ge=1, description="Most that a request may ask for, of execution")
    output_bytes: int = Field(default=MIB, gt=0, description="Most that a module may write to its standard output")


class CompileSettings(_Section):
    """How repositories are compiled: in containers of the daemon that the sandbox's `docker_host` names."""

    image: str = Field(default="", description="Builder image, pinned by digest or id; without one nothing is compiled")
    runtime: str = Field(default="runc", description="The runtime of builds; runsc (gVisor) is the stronger one")
    timeout_seconds: float = Field(default=300.0, gt=0, description="Wall-clock time before a build is killed")
    memory_limit_mb: int = Field(default=2048, gt=0, description="MiB for a build and all the files it writes")
    cpu_limit: float = Field(default=2.0, gt=0, description="CPU bandwidth of a build, in cores")
    hosts: Names = Field(default=("github.com",), description="Hosts that repositories may be fetched from, exactly")
    allow_private_hosts: bool = Field(
        default=False, description="Plain http, any port and private addresses too, for repositories"
    )
    allow_incomplete: bool = Field(
        default=False, description="Take repositories with submodules or LFS files, and do without these"
    )
    registry_hosts: Names = Field(
        default=(),
        description="host:port of what crates come from; crates.io's when unset, and a mirror's own beside these",
    )
    registry_mirror: str = Field(
        default="", description="Copy of crates.io that is asked in its place, as sparse+https://host/path/"
    )
    registry_ca_file: str = Field(
        default="", description="PEM file of the authorities that the registry is believed by"
    )
    allow_private_registry: bool = Field(default=False, description="Fetch crates from private addresses too")


class CoordinatorSettings(_Section):
    """A coordinator that hands out requests, in place of the worker reading the chain itself."""

    url: str = Field(default="", description="Its base URL; empty: the requests are read from the chain")
    token: SecretStr | None = Field(default=None, description="Bearer token")
    worker_id: str = Field(default="", description="Name that it knows this worker by; made once when unset")
    api: Literal["tasks", "jobs"] = Field(
        default="jobs", description="Its API: `tasks` is that of October 2025, `jobs` the later one"
    )
    poll_seconds: int = Field(default=60, ge=1, le=120, description="How long one question for work may wait")


class HealthSettings(_Section):
    """What is told about the worker over HTTP, at `/health` and `/metrics`. Nobody is asked who he is."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; any but loopback tells the network")
    port: int = Field(default=9464, ge=0, le=65_535, description="Port to listen on; 0: `millrace up` serves neither")
    patience_seconds: float = Field(
        default=180.0, gt=0, description="Without a successful look for so long, and three poll intervals, it is ill"
    )
    looks: bool = Field(
        default=True, description="Whether looks are missed here; false for one machine of several that take turns"
    )


_PREFIX = "MILLRACE_"
ENV_FILE_NAME = "MILLRACE_ENV_FILE"

PUBLIC_NAMES: dict[str, tuple[str, str]] = {
    # The public CloudMesh worker's.
    "solana_rpc_url": ("cloudmesh", "rpc_urls"),
    "program_id": ("cloudmesh", "program_id"),
    "worker_keypair_path": ("cloudmesh", "keypair_path"),
    "vite_pinata_jwt": ("ipfs", "pinata_jwt"),
    "pinata_jwt": ("ipfs", "pinata_jwt"),
    # ComputeChain's own command line's.
    "cpc_node": ("computechain", "rpc_urls"),
    # The public OffchainVM worker's.
    "near_rpc_url": ("near", "rpc_urls"),
    "neardata_api_url": ("near", "neardata_url"),
    "offchainvm_contract_id": ("near", "contract_id"),
    "operator_account_id": ("near", "account_id"),
    "operator_private_key": ("near", "private_keys"),
    "near_private_key": ("near", "private_keys"),
    "start_block_height": ("near", "start_block"),
    "docker_image": ("compile", "image"),
    "compile_timeout_seconds": ("compile", "timeout_seconds"),
    "compile_memory_limit_mb": ("compile", "memory_limit_mb"),
    "compile_cpu_limit": ("compile", "cpu_limit"),
    "api_base_url": ("coordinator", "url"),
    "api_auth_token": ("coordinator", "token"),
    "worker_id": ("coordinator", "worker_id"),
    "poll_timeout_seconds": ("coordinator", "poll_seconds"),
}


class Settings(BaseSettings):
    """All settings; `load_settings` is how to get one."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True)

    data_dir: Path = Field(default=Path(".millrace"), description="Receipts, outbox, content store, leases")
    poll_interval_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Wait between two looks at a chain",
        validation_alias=AliasChoices("MILLRACE_POLL_INTERVAL_SECONDS", "POLL_INTERVAL", "poll_interval_seconds"),
    )
    max_in_flight: int = Field(default=4, ge=1, description="Most unfinished flow runs a network may have in its pool")
    max_attempts: int = Field(default=3, ge=1, description="Flow runs a job gets before it is left for a person")
    attempt_cooldown_seconds: float = Field(default=300.0, ge=0, description="Wait before a failed job's next attempt")
    history_days: int = Field(
        default=30, ge=1, description="How long `millrace up` lets Prefect keep flow runs; receipts are kept for ever"
    )
    rebroadcast_seconds: float = Field(default=2.0, gt=0, description="Wait between two sends of the same signed bytes")
    confirm_seconds: float = Field(default=180.0, gt=0, description="Time one try at confirming or settling may take")
    fleet_url: SecretStr | None = Field(
        default=None,
        description="Redis (redis://, rediss:// or unix://) with what several machines share: the outbox, and locks "
        "for work that is done once; unset: files in the data folder, for one machine",
    )
    limits: Limits = Field(default_factory=Limits, description="What one job may use")
    sandbox: SandboxSettings = Field(default_factory=SandboxSettings)
    ipfs: IpfsSettings = Field(default_factory=IpfsSettings)
    cloudmesh: CloudMeshSettings = Field(default_factory=CloudMeshSettings)
    computechain: ComputeChainSettings = Field(default_factory=ComputeChainSettings)
    validator: ValidatorSettings = Field(default_factory=ValidatorSettings)
    near: NearSettings = Field(default_factory=NearSettings)
    compile: CompileSettings = Field(default_factory=CompileSettings)
    coordinator: CoordinatorSettings = Field(default_factory=CoordinatorSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)

    @field_validator("fleet_url")
    @classmethod
    def _the_fleet_shares_a_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Our own names first, then the public workers' names, each in the environment before `.env`."""
        return init_settings, env_settings, dotenv_settings, _PublicNames(settings_cls), file_secret_settings


class _PublicNames(PydanticBaseSettingsSource):
    """The environment names of the public workers, mapped to our sections."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name.lower(): value for name, value in {**dotenv_values(env_file()), **os.environ}.items() if value}
        sections: dict[str, Any] = {}
        for name, (section, field) in PUBLIC_NAMES.items():
            if name in found:
                sections.setdefault(section, {})[field] = found[name]
        return sections


def env_file() -> Path:
    """The file read beside the environment: `.env` in the working directory, unless MILLRACE_ENV_FILE names another."""
    return Path(os.environ.get(ENV_FILE_NAME) or ".env")


def load_settings() -> Settings:
    """The settings of this process, read anew.

    Raises Permanent naming each wrong setting and why, never its value: it may be a secret.
    """
    try:
        return Settings(_env_file=env_file())
    except SettingsError as error:
        raise Permanent(f"settings: {error}", hint="a whole section as one variable must be JSON") from None
    except ValidationError as error:
        faults = "; ".join(_told(fault["type"], fault["loc"], fault["msg"]) for fault in error.errors())
        raise Permanent(f"settings: {faults}", hint="see docs/settings.md for every name and its meaning") from None


def _told(kind: str, path: tuple[int | str, ...], message: str) -> str:
    """A wrong setting in words, by the names that its variable can have."""
    # A field with several names is reported under the first of them.
    place = [str(part).removeprefix(_PREFIX).lower() for part in path if not isinstance(part, int)]
    name = variable(*place)
    if kind == "extra_forbidden":
        return no_setting(name)
    others = "".join(f" or {other.upper()}" for other in public_names(*place))
    return f"{name}{others}: {message}"


def variable(*path: str) -> str:
    """The environment variable of the setting at `path`: section and field, or a field alone."""
    return f"{_PREFIX}{'__'.join(path)}".upper()


def no_setting(name: str) -> str:
    """That no setting is called `name`, and which one may have been meant."""
    close = get_close_matches(name, _variables(Settings), n=1)
    return f"{name} is no setting" + (f"; did you mean {close[0]}?" if close else "")


def unknown_variables() -> list[str]:
    """The variables, in the environment and in the file beside it, that look like ours and are no setting."""
    known = {*_variables(Settings), ENV_FILE_NAME}
    set_here = {name.upper() for name in {**dotenv_values(env_file()), **os.environ}}
    return sorted(name for name in set_here if name.startswith(_PREFIX) and name not in known)


def _variables(section: type[BaseModel], *path: str) -> list[str]:
    """Every variable there is for `section`, which is at `path`; a whole section as JSON is one too."""
    found = []
    for name, field in section.model_fields.items():
        found.append(variable(*path, name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _variables(field.annotation, *path, name)
    return found


def public_names(*path: str) -> list[str]:
    """The public workers' names, in lower case, of the setting at `path` (section and field, or a field alone)."""
    if path == ("poll_interval_seconds",):
        return ["poll_interval"]
    return [name for name, place in PUBLIC_NAMES.items() if place == path]
