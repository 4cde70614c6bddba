//! Flags that say how adapters are kept, and who may change which there are.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{put, put_some};
use crate::settings::{
    AdapterErrorChoice, AdapterWarmup, ApiKey, Factor, HeaderField, Settings, StateDir, Timeout,
    parse_setting,
};

/// The fleet of adapters.
#[derive(Debug, Default, Args)]
pub struct FleetFlags {
    /// Folder where the registry of adapters is kept, or none [default: none, which ends with the process].
    #[arg(long, value_name = "DIR|none", value_parser = parse_setting::<StateDir>)]
    pub state_dir: Option<StateDir>,
    /// Take in adapters that appear or change in --adapters-dir while the server runs.
    #[arg(long)]
    pub watch: bool,
    /// Folder that is looked into for adapters that are asked for and not known yet.
    #[arg(long, value_name = "DIR", value_parser = parse_setting::<PathBuf>)]
    pub lora_resolver: Option<PathBuf>,
    /// Most adapters on the device at once [default: as many as --lora-memory holds].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_loras: Option<NonZeroUsize>,
    /// Most adapters in host memory [default: as many as --host-cache-bytes holds].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_cpu_loras: Option<NonZeroUsize>,
    /// Highest rank an adapter may have [default: 4096].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_lora_rank: Option<NonZeroUsize>,
    /// Adapters to load before the server is ready: none, all, or top:N by how often they were asked for [default: none].
    #[arg(long, value_name = "none|all|top:N", value_parser = parse_setting::<AdapterWarmup>)]
    pub warmup: Option<AdapterWarmup>,
    /// What a request gets whose adapter is there and cannot be loaded: error, or base for the base model's answer with
    /// the reason beside it [default: error].
    #[arg(long, value_name = "error|base", value_parser = parse_setting::<AdapterErrorChoice>)]
    pub on_adapter_error: Option<AdapterErrorChoice>,
    /// Keys of which those who change the registry must send one as `Authorization: Bearer KEY`; without any, nobody can.
    /// Other users of the machine can read a flag: rather set POLYLORA__ADMIN_API_KEY.
    #[arg(
        long, value_name = "KEY", num_args = 1.., action = ArgAction::Append, value_parser = parse_setting::<ApiKey>
    )]
    pub admin_api_key: Vec<ApiKey>,
    /// Let clients on this machine load and unload adapters without an admin key (vLLM's
    /// VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 does the same).
    #[arg(long)]
    pub allow_runtime_lora_updating: bool,
    /// Header that says who a client is for A/B tests, where the body's `user` does not [default: x-polylora-user].
    #[arg(long, value_name = "HEADER", value_parser = parse_setting::<HeaderField>)]
    pub ab_header: Option<HeaderField>,
    /// Seconds between two checks whether every adapter could answer; 0 never checks [default: 60].
    #[arg(long, value_name = "SECS", value_parser = parse_setting::<u64>)]
    pub adapter_check_interval: Option<u64>,
    /// End an A/B test when its candidate's share of errors or p99 is so many times that of the active version [default:
    /// never].
    #[arg(long, value_name = "FACTOR", value_parser = parse_setting::<Factor>)]
    pub auto_rollback_factor: Option<Factor>,
    /// How far back both are compared, in seconds [default: 300].
    #[arg(long, value_name = "SECS", value_parser = parse_setting::<Timeout>)]
    pub auto_rollback_window: Option<Timeout>,
}

impl FleetFlags {
    /// Lays the flags that were given over the settings.
    pub fn lay_over(self, settings: &mut Settings) {
        put(&mut settings.state_dir, self.state_dir);
        put(&mut settings.watch, self.watch.then_some(true));
        put_some(&mut settings.lora_resolver, self.lora_resolver);
        put_some(&mut settings.max_loras, self.max_loras);
        put_some(&mut settings.max_cpu_loras, self.max_cpu_loras);
        put_some(&mut settings.max_lora_rank, self.max_lora_rank);
        put(&mut settings.warmup, self.warmup);
        put(&mut settings.on_adapter_error, self.on_adapter_error);
        put(&mut settings.admin_api_key, (!self.admin_api_key.is_empty()).then_some(self.admin_api_key));
        put(&mut settings.allow_runtime_lora_updating, self.allow_runtime_lora_updating.then_some(true));
        put(&mut settings.ab_header, self.ab_header);
        put(&mut settings.adapter_check_interval, self.adapter_check_interval);
        put_some(&mut settings.auto_rollback_factor, self.auto_rollback_factor);
        put(&mut settings.auto_rollback_window, self.auto_rollback_window);
    }
}
