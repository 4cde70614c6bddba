//! What the ways of serving are compared under.

use std::fmt;
use std::time::Duration;

use crate::{HttpLoad, LoadPattern};

/// A load on a server with domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// So many texts at the same moment, spread evenly over so many domains.
    Burst {
        /// Texts.
        texts: usize,
        /// Domains.
        domains: usize,
    },
    /// A client for each of so many domains, each with one text in flight.
    OneEach {
        /// Domains.
        domains: usize,
    },
    /// So many clients whose requests go round so many domains.
    Domains {
        /// Clients.
        clients: usize,
        /// Domains.
        domains: usize,
    },
    /// So many clients of the base.
    Base {
        /// Clients.
        clients: usize,
    },
}

/// Measured time for each client, at least: a client in a long queue has a few replies in it.
const TIME_A_CLIENT: Duration = Duration::from_millis(6);

impl Scenario {
    /// Connections.
    pub fn clients(self) -> usize {
        match self {
            Scenario::Burst { texts, .. } => texts,
            Scenario::OneEach { domains } => domains,
            Scenario::Domains { clients, .. } | Scenario::Base { clients } => clients,
        }
    }

    /// The load, of single texts of `tokens` tokens, for about `time`; `names` are the domains.
    pub fn load(self, names: &[String], tokens: usize, time: Duration) -> HttpLoad {
        let (domains, pattern) = match self {
            Scenario::Burst { domains, .. } => (domains, LoadPattern::Bursts),
            Scenario::OneEach { domains } => (domains, LoadPattern::OwnModel),
            Scenario::Domains { domains, .. } => (domains, LoadPattern::Rounds),
            Scenario::Base { .. } => (0, LoadPattern::Rounds),
        };
        HttpLoad {
            clients: self.clients(),
            time: time.max(TIME_A_CLIENT * self.clients() as u32),
            tokens,
            encoding: "float".to_owned(),
            texts: 1,
            models: names[..domains.min(names.len())].to_vec(),
            pattern,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scenario::Burst { texts, domains } => write!(f, "burst of {texts} over {domains} domains"),
            Scenario::OneEach { domains } => write!(f, "{domains} domains, one text each"),
            Scenario::Domains { clients: 1, domains } => write!(f, "{domains} domains, 1 client"),
            Scenario::Domains { clients, domains } => write!(f, "{domains} domains, {clients} clients"),
            Scenario::Base { clients: 1 } => f.write_str("base, 1 client"),
            Scenario::Base { clients } => write!(f, "base, {clients} clients"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_has_equally_many_texts_of_each_of_its_domains() {
        let names: Vec<String> = (0..13).map(|n| n.to_string()).collect();
        let load = Scenario::Burst { texts: 100, domains: 5 }.load(&names, 16, Duration::from_millis(1));
        assert_eq!((load.clients, load.models.len(), load.pattern), (100, 5, LoadPattern::Bursts));
        assert!(load.clients.is_multiple_of(load.models.len()));
        assert!(load.time >= TIME_A_CLIENT * 100);
    }

    #[test]
    fn the_base_has_no_name() {
        let load = Scenario::Base { clients: 2 }.load(&["a".to_owned()], 16, Duration::from_secs(1));
        assert!(load.models.is_empty());
    }
}
