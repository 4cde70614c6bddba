//! The kinds of value that are the server's own: devices, dtypes, sizes, log forms.

use std::fmt;

use tracing_subscriber::EnvFilter;

use super::value::Setting;

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best that this build and machine have.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU through wgpu; `None` is its default adapter.
    Wgpu(Option<usize>),
    /// An NVIDIA GPU through CUDA; `None` is the first.
    Cuda(Option<usize>),
}

impl Setting for DeviceChoice {
    const EXPECTED: &'static str = "auto, cpu, wgpu, wgpu:N, cuda or cuda:N (N counts from 0)";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(index.parse().ok()?)),
            None => (text.as_str(), None),
        };
        match (kind, index) {
            ("auto", None) => Some(Self::Auto),
            ("cpu", None) => Some(Self::Cpu),
            ("wgpu", index) => Some(Self::Wgpu(index)),
            ("cuda", index) => Some(Self::Cuda(index)),
            _ => None,
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Wgpu(None) => f.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

/// Number format of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtypeChoice {
    /// What suits the device.
    Auto,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers for weights, on the CPU.
    Int8,
}

impl Setting for DtypeChoice {
    const EXPECTED: &'static str = "auto, f32 (float32, float), f16 (float16, half), bf16 (bfloat16) or int8";

    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "f32" | "float32" | "float" => Some(Self::F32),
            "f16" | "float16" | "half" => Some(Self::F16),
            "bf16" | "bfloat16" => Some(Self::Bf16),
            "int8" | "i8" => Some(Self::Int8),
            _ => None,
        }
    }
}

impl fmt::Display for DtypeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

/// A number of bytes above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The size in bytes, at most what the address space has.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Setting for ByteSize {
    const EXPECTED: &'static str = "a number of bytes above zero, or one with a unit (kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024)";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1000,
            "m" | "mb" => 1000_u64.pow(2),
            "g" | "gb" => 1000_u64.pow(3),
            "t" | "tb" => 1000_u64.pow(4),
            "ki" | "kib" => 1 << 10,
            "mi" | "mib" => 1 << 20,
            "gi" | "gib" => 1 << 30,
            "ti" | "tib" => 1 << 40,
            _ => return None,
        };
        let bytes = if number.contains('.') {
            let bytes = number.parse::<f64>().ok()? * factor as f64;
            // Above 2^53 a double no longer tells bytes apart; such a size is a slip of the pen anyway.
            (bytes < (1_u64 << 53) as f64).then_some(bytes as u64)?
        } else {
            number.parse::<u64>().ok()?.checked_mul(factor)?
        };
        (bytes > 0).then_some(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Setting for LogFormat {
    const EXPECTED: &'static str = "text or json";

    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// A level, or a list of `target=level` directives as `tracing-subscriber` reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for LogFilter {
    const EXPECTED: &'static str =
        "off, error, warn, info, debug, trace, or directives such as info,polylora_engine=debug";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        // A bare word that is no level would be read as the name of a target, which is never what was meant.
        let named = |directive: &str| {
            directive.contains(['=', '['])
                || matches!(
                    directive.to_ascii_lowercase().as_str(),
                    "off" | "error" | "warn" | "info" | "debug" | "trace"
                )
        };
        let well_formed =
            text.split(',').all(|directive| named(directive.trim())) && EnvFilter::try_new(text).is_ok();
        well_formed.then(|| Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_of_1000_and_1024() {
        for (text, bytes) in [
            ("1", 1),
            ("2_000", 0),
            ("512MiB", 512 << 20),
            ("512 mib", 512 << 20),
            ("2MB", 2_000_000),
            ("1.5GiB", 3 << 29),
            ("4k", 4000),
            ("0", 0),
            ("-1", 0),
            ("1 parsec", 0),
            ("99999999999TiB", 0),
            (".", 0),
            ("1.2.3", 0),
        ] {
            let expected = (bytes > 0).then_some(ByteSize(bytes));
            assert_eq!(ByteSize::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn devices_are_named_with_and_without_an_index() {
        assert_eq!(DeviceChoice::parse("CUDA:1"), Some(DeviceChoice::Cuda(Some(1))));
        assert_eq!(DeviceChoice::parse("wgpu"), Some(DeviceChoice::Wgpu(None)));
        for wrong in ["cpu:0", "auto:1", "cuda:", "cuda:x", "cuda:-1", "gpu", ""] {
            assert_eq!(DeviceChoice::parse(wrong), None, "{wrong}");
        }
        for text in ["auto", "cpu", "wgpu", "wgpu:2", "cuda", "cuda:0"] {
            assert_eq!(DeviceChoice::parse(text).map(|device| device.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn dtypes_have_the_names_that_vllm_users_type() {
        assert_eq!(DtypeChoice::parse("half"), Some(DtypeChoice::F16));
        assert_eq!(DtypeChoice::parse("bfloat16"), Some(DtypeChoice::Bf16));
        assert_eq!(DtypeChoice::parse("float32"), Some(DtypeChoice::F32));
        assert_eq!(DtypeChoice::parse("int8"), Some(DtypeChoice::Int8));
        assert_eq!(DtypeChoice::parse("int4"), None);
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        assert!(LogFilter::parse("debug").is_some());
        assert!(LogFilter::parse("info,polylora_engine=debug").is_some());
        assert_eq!(LogFilter::parse("verbose"), None);
        assert_eq!(LogFilter::parse("info,polylora_engine=loud"), None);
    }
}
