//! Room for open connections in the system's own bound on open files.

/// Files that the process opens beside its connections: model, adapters, logs, the runtime's.
const OTHER_FILES: usize = 256;

/// Raises the process's bound on open files so that so many connections fit, as far as the system lets it; where it does
/// not, the log says so.
#[cfg(unix)]
pub fn make_room(max_connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let wanted = max_connections.saturating_add(OTHER_FILES) as u64;
    let mut limit = getrlimit(Resource::Nofile);
    // No bound is room enough.
    let Some(found) = limit.current.filter(|&found| found < wanted) else { return };
    limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    let room = limit.current.filter(|_| raised).unwrap_or(found);
    if room < wanted {
        tracing::warn!(
            open_files = room,
            max_connections,
            "the system allows fewer open files than --max-connections needs: raise `ulimit -n`, or connections will wait"
        );
    }
}

/// Other systems have no such bound.
#[cfg(not(unix))]
pub fn make_room(max_connections: usize) {
    let _ = (max_connections, OTHER_FILES);
}

#[cfg(all(test, unix))]
mod tests {
    use rustix::process::{Resource, getrlimit};

    use super::*;

    #[test]
    fn room_is_never_taken_away() {
        let before = getrlimit(Resource::Nofile);
        make_room(1);
        let least = getrlimit(Resource::Nofile);
        assert!(least.current >= before.current || least.current.is_none());
        // More than any system has: the most there is, and no harm.
        make_room(usize::MAX);
        let most = getrlimit(Resource::Nofile);
        assert_eq!(most.maximum, before.maximum);
        assert!(most.current >= least.current || most.current.is_none());
    }
}
