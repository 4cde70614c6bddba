//! Benchmarks of polylora: the pieces that the bench programs share.
//!
//! On the CPU:
//!
//! - `cargo bench -p polylora-benches --bench forward`: the encoder by batch and length, beside its floor.
//! - `cargo bench -p polylora-benches --bench lora_overhead`: what adapters cost, by rank and by how many are in a batch.
//! - `cargo bench -p polylora-benches --bench flatness`: whether a token costs the same in short and long texts.
//! - `cargo bench -p polylora-benches --bench http`: the real server under 1, 100 and 500 clients.
//! - `cargo bench -p polylora-benches --bench modes`: the ways to serve many domains, side by side.
//! - `cargo bench -p polylora-benches --bench overload`: ten times more requests than the server can answer.
//! - `cargo bench -p polylora-benches --bench fleet`: adapters that come, change and go while the server runs.
//! - `cargo bench -p polylora-benches --bench generate -- --llm DIR`: text generation beside transformers, PEFT and vLLM, and streams
//!   of the real server.
//! - `benches/spike.sh DIR`: the library in turn with the fused spike that it grew out of.
//! - `benches/peers.sh DIR`: the `lockstep` program in turn with sentence-transformers, PyTorch, ONNX Runtime and PEFT.
//!
//! On a GPU (with `--features cuda` or `wgpu`; without a GPU they say `not run` and print the floors):
//!
//! - `cargo bench -p polylora-benches --bench gpu_kernels`: each op beside the bytes and FLOPs that it cannot do without.
//! - `cargo bench -p polylora-benches --bench gpu_forward`: the encoder, base and 13 mixed adapters in turn.
//! - `benches/gpu.sh PYTHON`: both in turn with PyTorch, `torch.compile`, Triton and PEFT.
//!
//! Each times passes itself and reports their median, fastest and slowest; none passes or fails by a time. Figures with
//! their machine are in `RESULTS.md`.

mod aim;
mod bar_chart;
mod base_pairs;
mod bursts;
mod ceilings;
mod chunked_body;
mod decoder_folder;
mod device_layer;
mod device_options;
mod error;
mod fleet_client;
mod fleet_cold;
mod fleet_floor;
mod fleet_peer;
mod fleet_reload;
mod fleet_setup;
mod fleet_switch;
mod fleet_tiers;
mod fleet_windows;
mod fleet_zipf;
mod flops;
mod generate_figures;
mod generate_peer;
mod generate_subject;
mod gpu_card;
mod gpu_floor;
mod http_burst;
mod http_client;
mod http_load;
mod http_server;
mod kernel_shapes;
mod library_rate;
mod memory_reads;
mod mode_aims;
mod mode_scenario;
mod neighbours;
mod open_loop;
mod options;
mod peak;
mod popularity;
mod python_peer;
mod random;
mod random_adapters;
mod refusal;
mod report;
mod results_file;
mod rows;
mod served_figures;
mod served_mode;
mod spike;
mod stream_client;
mod stream_load;
mod subject;
mod timing;
mod word_pool;

pub use aim::{Aim, Verdict};
pub use bar_chart::BarChart;
pub use base_pairs::BasePairs;
pub use bursts::{Bursts, bursts, bursts_in_turn};
pub use ceilings::Ceilings;
pub use decoder_folder::{DecoderFolder, load_decoder_adapters};
pub use device_layer::{DeviceLayer, random_matrix, random_vector};
pub use device_options::{DeviceOptions, is_software};
pub use error::BenchError;
pub use fleet_client::{FleetClient, FleetReply};
pub use fleet_cold::ColdLoads;
pub use fleet_floor::{ReadFloor, SyncedFile, file_system};
pub use fleet_peer::{FleetPeer, PeerLoad, PeerRivals};
pub use fleet_reload::HotReloads;
pub use fleet_setup::{FLEET_RANK, FleetSetup, StateDir, link_adapters};
pub use fleet_switch::Switches;
pub use fleet_tiers::{TierOptions, Tiers};
pub use fleet_zipf::Zipf;
pub use flops::Targets;
pub use generate_figures::{DTypeKind, GenerateFigures, GenerateFloor, GenerateLine, Generator};
pub use generate_peer::{GeneratePeer, PeerEngine};
pub use generate_subject::{GenerateCase, GenerateSetup, GenerateSubject, GenerateTimes, Through};
pub use gpu_card::Card;
pub use gpu_floor::{Floor, LayerSize, LoraWork, attention_floor, embedding_floor, pooling_floor};
pub use http_client::{HttpClient, HttpReply};
pub use http_load::{HttpLoad, HttpTimes, LoadPattern};
pub use http_server::{HttpServer, own_binary, own_cpu_seconds};
pub use kernel_shapes::{KernelShape, Phase, ShapeOptions};
pub use library_rate::LibraryLoad;
pub use memory_reads::read_rate;
pub use mode_aims::ModeFigures;
pub use mode_scenario::Scenario;
pub use neighbours::undisturbed;
pub use open_loop::{OpenLoop, OpenTimes};
pub use options::{RunOptions, StartError};
pub use peak::GemmPeak;
pub use polylora_models::EncoderSize;
pub use popularity::Popularity;
pub use random::Random;
pub use random_adapters::{random_adapters, rank_ladder, write_random_adapters};
pub use refusal::refusal_ms;
pub use report::{Report, Row};
pub use results_file::{results_file, write_part};
pub use rows::{RowLength, Rows};
pub use served_figures::{ServedFigures, measure_load};
pub use served_mode::ServedMode;
pub use spike::{Spike, SpikeCase, SpikeRun, SpikeTexts, spike_ids, spike_mode};
pub use stream_load::{StreamFigures, StreamLoad};
pub use subject::{AdapterSet, Subject, load_adapter};
pub use timing::{Passes, in_turn, passes};
pub use word_pool::WordPool;
