//! What the machine is, as far as the system tells.

use std::env::consts::{ARCH, OS};
use std::fmt;
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use polylora_kernels_cpu::isa::Isa;
use serde::Serialize;

use crate::assemble::count;

/// The machine that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Operating system and architecture, `linux x86_64`.
    pub system: String,
    /// The instruction set in use, by the name that POLYLORA_CPU_ISA takes.
    pub isa: &'static str,
    /// Threads that compute.
    pub threads: usize,
    /// Runnable processes in the minute before, where the system tells: what else was going on.
    pub load: Option<f64>,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cores, threads) = (count(self.cores, "core"), count(self.threads, "thread"));
        write!(f, "{}, {cores}, {}, {}, {threads}", self.cpu, self.system, self.isa)?;
        match self.load {
            Some(load) => write!(f, ", load before {load:.1}"),
            None => Ok(()),
        }
    }
}

/// This machine, with so many threads that compute.
pub fn describe(threads: usize) -> Machine {
    Machine {
        cpu: cpu_name().unwrap_or_else(|| "a CPU whose name the system does not tell".into()),
        cores: available_parallelism().map_or(1, |cores| cores.get()),
        system: format!("{OS} {ARCH}"),
        isa: Isa::current().name(),
        threads,
        load: fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok()),
    }
}

/// Bytes of the largest cache, where Linux tells.
pub fn largest_cache() -> Option<usize> {
    let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    caches.filter_map(|cache| cache_bytes(&fs::read_to_string(cache.ok()?.path().join("size")).ok()?)).max()
}

/// A size as Linux writes it: `32768K`, `32M`.
fn cache_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

fn cpu_name() -> Option<String> {
    let name = match OS {
        "linux" => name_in(&fs::read_to_string("/proc/cpuinfo").ok()?)?,
        "macos" => {
            let output = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
            String::from_utf8(output.stdout).ok()?
        }
        "windows" => std::env::var("PROCESSOR_IDENTIFIER").ok()?,
        _ => return None,
    };
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

/// The name in `/proc/cpuinfo`. Machines of clouds have names without a number, so that family and model follow it.
fn name_in(cpuinfo: &str) -> Option<String> {
    let value = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key))?;
        Some(line.split_once(':')?.1.trim())
    };
    let name = value("model name")?;
    Some(match (value("cpu family"), value("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_with_family_and_model_where_they_are() {
        let x86 = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n";
        assert_eq!(name_in(x86).as_deref(), Some("AMD EPYC (family 26, model 2)"));
        assert_eq!(name_in("model name\t: ARMv8 Processor\n").as_deref(), Some("ARMv8 Processor"));
        assert_eq!(name_in("CPU implementer\t: 0x41\n"), None);
    }

    #[test]
    fn sizes_of_caches_have_units() {
        assert_eq!(cache_bytes("32768K\n"), Some(32 << 20));
        assert_eq!(
            (cache_bytes("2M"), cache_bytes("7"), cache_bytes("K"), cache_bytes("1T")),
            (Some(2 << 20), Some(7), None, None)
        );
    }
}
