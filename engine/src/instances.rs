//! The ways to the instances: a request goes whole to the one with the fewest rows before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::row_gather::EmbedJob;

/// The instances that take jobs.
#[derive(Debug)]
pub(crate) struct Instances {
    list: Vec<Instance>,
    /// Where looking begins, so that equals take turns.
    turn: AtomicUsize,
}

/// The way to one instance.
#[derive(Debug)]
struct Instance {
    jobs: mpsc::Sender<EmbedJob>,
    rows: Arc<AtomicUsize>,
}

/// Rows on their way through an instance; dropping it says that they are through.
#[derive(Debug)]
pub(crate) struct Burden {
    on: Arc<AtomicUsize>,
    rows: usize,
}

impl Instances {
    /// One way for each sender.
    pub(crate) fn new(jobs: Vec<mpsc::Sender<EmbedJob>>) -> Self {
        let list = jobs.into_iter().map(|jobs| Instance { jobs, rows: Arc::default() }).collect();
        Self { list, turn: AtomicUsize::new(0) }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The instance with the fewest rows, of those that still take any.
    pub(crate) fn least_burdened(&self, rows: usize) -> Option<(mpsc::Sender<EmbedJob>, Burden)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.list.len();
        let open =
            (0..count).map(|i| turn.wrapping_add(i) % count).filter(|&i| !self.list[i].jobs.is_closed());
        let index = open.min_by_key(|&i| self.list[i].rows.load(Ordering::Relaxed))?;
        self.at(index, rows)
    }

    /// The instance of that number.
    pub(crate) fn at(&self, index: usize, rows: usize) -> Option<(mpsc::Sender<EmbedJob>, Burden)> {
        let instance = self.list.get(index)?;
        instance.rows.fetch_add(rows, Ordering::Relaxed);
        Some((instance.jobs.clone(), Burden { on: Arc::clone(&instance.rows), rows }))
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        self.on.fetch_sub(self.rows, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_where_the_fewest_are_and_equals_take_turns() {
        let (jobs, mut inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel(1)).unzip();
        let ways = jobs.clone();
        let instances = Instances::new(jobs);
        let chosen = |rows| {
            let (way, burden) = instances.least_burdened(rows).unwrap();
            (ways.iter().position(|known| known.same_channel(&way)).unwrap(), burden)
        };
        let (first, second, third) = (chosen(5), chosen(1), chosen(3));
        assert_eq!((first.0, second.0, third.0), (0, 1, 2));
        let fourth = chosen(1);
        assert_eq!(fourth.0, 1);
        drop(first);
        assert_eq!(chosen(1).0, 0);
        inboxes[0].close();
        assert_ne!(chosen(0).0, 0, "an instance that takes nothing any more is passed over");
        inboxes.iter_mut().for_each(mpsc::Receiver::close);
        assert!(instances.least_burdened(1).is_none());
    }
}
