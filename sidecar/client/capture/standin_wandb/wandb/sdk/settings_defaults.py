"""Default values of the settings of wandb 0.31.

Given: settings. Hands on: constants, and values computed from other settings, from the script and from this machine.
Never: makes a folder, or asks a server: addresses of pages are empty, as they are offline.
"""

import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

CONSTANTS: dict[str, Any] = {
    "mode": "online", "reinit": "default", "resumed": False, "force": False, "allow_val_change": False,
    "base_url": "https://api.forge.coreweave.com", "app_url": "https://forge.coreweave.com/wandb",
    "deployment": "cloud", "is_local": False, "run_url": "", "project_url": "", "sweep_url": "",
    "quiet": False, "silent": False, "show_errors": True, "show_info": True, "show_warnings": True,
    "console": "wrap", "console_multipart": False, "console_chunk_max_bytes": 0, "console_chunk_max_seconds": 0,
    "disable_code": False, "disable_git": False, "disable_git_fork_point": True, "disable_job_creation": True,
    "label_disable": False, "launch": False, "relogin": False, "sagemaker_disable": False, "symlink": True,
    "allow_media_symlink": False, "allow_offline_artifacts": True, "ignore_globs": (), "git_remote": "origin",
    "insecure_disable_ssl": False, "stop_on_fatal_error": False, "table_raise_on_max_row_limit_exceeded": False,
    "heartbeat_seconds": 30, "init_timeout": 90.0, "finish_timeout": 0.0, "finish_timeout_raises": False,
    "summary_timeout": 60, "summary_warnings": 5, "max_end_of_run_history_metrics": 10,
    "max_end_of_run_summary_metrics": 10, "x_cli_only_mode": False, "x_disable_machine_info": False,
    "x_disable_meta": False, "x_disable_stats": False, "x_disable_viewer": False, "x_file_stream_no_gzip": True,
    "x_history_value_encoding": "json", "x_internal_check_process": 8.0, "x_log_level": 20, "x_primary": True,
    "x_save_requirements": True, "x_server_side_derived_summary": False, "x_service_wait": 30.0,
    "x_skip_transaction_log": False, "x_stats_buffer_size": 0, "x_stats_disk_paths": ("/",),
    "x_stats_no_cgroup": False, "x_stats_sampling_interval": 15.0, "x_stats_self_usage": False,
    "x_stats_track_process_tree": False, "x_sync": False, "x_sync_dir_suffix": "",
    "x_transaction_log_flush_interval": 15.0, "x_update_finish_state": True, "_aws_lambda": False, "_colab": False,
    "_ipython": False, "_jupyter": False, "_kaggle": False, "_notebook": False, "_windows": False,
}  # fmt: skip

_UNSET = """
    anonymous credentials_file settings_system x_stats_coreweave_metadata_base_url x_stats_coreweave_metadata_endpoint
    api_key app_url_override azure_account_url_to_access_key capture_loggers code_dir colab_url
    config_paths docker email entity fork_from git_commit git_remote_url git_root http_proxy https_proxy
    identity_token_file job_name job_source launch_config_path login_timeout notebook_name organization
    project resume resume_from run_group run_id run_job_type run_name run_notes run_tags
    save_code show_colors show_emoji stop_fn strict sweep_id sweep_param_path sync_tensorboard use_dot_wandb
    username x_extra_http_headers x_file_stream_max_bytes x_file_stream_max_line_bytes x_file_stream_retry_max
    x_file_stream_retry_wait_max_seconds x_file_stream_retry_wait_min_seconds x_file_stream_timeout_seconds
    x_file_stream_transmit_interval x_file_transfer_retry_max x_file_transfer_retry_wait_max_seconds
    x_file_transfer_retry_wait_min_seconds x_file_transfer_timeout_seconds x_files_dir x_flow_control_custom
    x_flow_control_disabled x_graphql_retry_max x_graphql_retry_wait_max_seconds
    x_graphql_retry_wait_min_seconds x_graphql_timeout_seconds x_jupyter_name x_jupyter_path x_jupyter_root
    x_label x_live_policy_rate_limit x_live_policy_wait_time x_network_buffer x_proxies x_runqueue_item_id
    x_service_transport x_start_time x_stats_cpu_count x_stats_cpu_logical_count x_stats_dcgm_exporter
    x_stats_gpu_count x_stats_gpu_device_ids x_stats_gpu_type x_stats_neuron_monitor_config_path
    x_stats_open_metrics_endpoints x_stats_open_metrics_filters x_stats_open_metrics_http_headers
"""
CONSTANTS.update(dict.fromkeys(_UNSET.split()))

COMPUTED: dict[str, Callable[[Any], Any]] = {
    "_noop": lambda settings: settings.mode == "disabled",
    "_offline": lambda settings: settings.mode in ("offline", "dryrun"),
    "_shared": lambda settings: settings.mode == "shared",
    "_args": lambda _: sys.argv[1:],
    "_os": lambda _: platform.platform(aliased=True),
    "_platform": lambda _: f"{platform.system()}-{platform.machine()}".lower(),
    "_python": lambda _: f"{platform.python_implementation()} {platform.python_version()}",
    "_start_datetime": lambda settings: _stamp(settings.x_start_time),
    "timespec": lambda settings: _stamp(settings.x_start_time),
    "host": lambda settings: socket.gethostname() if settings.x_start_time else None,
    "program": lambda settings: _program() if settings.x_start_time else None,
    "_code_path_local": lambda settings: _from_here(settings.program) if settings.program else None,
    "program_relpath": lambda settings: settings._code_path_local,
    "program_abspath": lambda settings: os.path.abspath(settings.program) if settings.program else None,
    "x_executable": lambda settings: sys.executable if settings.x_start_time else None,
    "x_stats_pid": lambda _: os.getpid(),
    "root_dir": lambda _: os.getcwd(),
    "wandb_dir": lambda settings: _wandb_dir(settings.root_dir),
    "run_mode": lambda settings: "offline-run" if settings._offline else "run",
    "sync_dir": lambda settings: os.path.join(
        settings.wandb_dir, f"{settings.run_mode}-{settings.timespec}-{settings.run_id}"
    ),
    "sync_file": lambda settings: os.path.join(settings.sync_dir, f"run-{settings.run_id}.wandb"),
    "sync_symlink_latest": lambda settings: os.path.join(settings.wandb_dir, "latest-run"),
    "files_dir": lambda settings: os.path.join(settings.sync_dir, "files"),
    "_tmp_code_dir": lambda settings: os.path.join(settings.sync_dir, "tmp", "code"),
    "log_dir": lambda settings: os.path.join(settings.sync_dir, "logs"),
    "log_user": lambda settings: os.path.join(settings.log_dir, "debug.log"),
    "log_internal": lambda settings: os.path.join(settings.log_dir, "debug-internal.log"),
    "log_symlink_user": lambda settings: os.path.join(settings.wandb_dir, "debug.log"),
    "log_symlink_internal": lambda settings: os.path.join(settings.wandb_dir, "debug-internal.log"),
    "resume_fname": lambda settings: os.path.join(settings.wandb_dir, "wandb-resume.json"),
    "settings_workspace": lambda settings: os.path.join(settings.wandb_dir, "settings"),
}
"""Functions of the settings. What real wandb fills in when a run begins is None until then."""


def of(settings: Any, name: str) -> Any:
    """Raises KeyError for a name that wandb does not know."""
    return COMPUTED[name](settings) if name in COMPUTED else CONSTANTS[name]


def _program() -> str:
    return os.path.join(os.getcwd(), sys.argv[0]) if os.path.isfile(sys.argv[0]) else "<python with no main file>"


def _from_here(program: str) -> str:
    return os.path.relpath(program) if os.path.isfile(program) else ""


def _stamp(started: float | None) -> str:
    return "" if started is None else time.strftime("%Y%m%d_%H%M%S", time.localtime(started))


def _wandb_dir(root: str) -> str:
    """``.wandb`` where there is such a folder already."""
    hidden = os.path.join(root, ".wandb")
    return os.path.expanduser(hidden if os.path.exists(hidden) else os.path.join(root, "wandb"))
