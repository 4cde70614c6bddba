//! Where prompts are read: templates and tokenizers may take long, so they work on threads that may block, a few at one time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, oneshot};

use crate::GenerateError;

/// Bounded seats for work that blocks.
pub(crate) struct ReadingRoom {
    seats: Arc<Semaphore>,
}

impl ReadingRoom {
    /// A seat for each core: more readers at one time read nothing faster.
    pub(crate) fn one_a_core() -> Self {
        Self::new(thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    fn new(seats: usize) -> Self {
        Self { seats: Arc::new(Semaphore::new(seats)) }
    }

    /// Has `work` done as soon as there is a seat; for who has left before it begins, it is not done at all. What is `held`
    /// is let go when the work is over, also where nobody waits for it any more, and before the answer is there.
    ///
    /// # Errors
    /// When the work panics.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        held: impl Send + 'static,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GenerateError> {
        // Nobody closes the seats.
        let seat = Arc::clone(&self.seats).acquire_owned().await.map_err(|_| GenerateError::ShuttingDown)?;
        let (answer, answered) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let seated = (seat, held);
            if answer.is_closed() {
                return;
            }
            let done = work();
            drop(seated);
            let _ = answer.send(done);
        });
        let panicked = |_| GenerateError::Internal { reason: "reading the prompt panicked".to_owned() };
        answered.await.map_err(panicked)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn no_more_read_than_there_are_seats_and_who_has_left_is_not_read_for() {
        let room = Arc::new(ReadingRoom::new(2));
        let (begun, doors) = (Arc::new(AtomicUsize::new(0)), Arc::new(parking_lot::Mutex::new(vec![])));
        let readers: Vec<_> = (0..20)
            .map(|_| {
                let (room, begun, doors) = (Arc::clone(&room), Arc::clone(&begun), Arc::clone(&doors));
                let held = Arc::new(());
                let watched = Arc::downgrade(&held);
                let read = async move {
                    let work = move || {
                        let (open, door) = mpsc::channel::<()>();
                        doors.lock().push(open);
                        begun.fetch_add(1, Ordering::SeqCst);
                        let _ = door.recv();
                    };
                    room.read(held, work).await
                };
                (tokio::spawn(read), watched)
            })
            .collect();
        while begun.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        readers.iter().for_each(|(reader, _)| reader.abort());
        let mut watched = vec![];
        for (reader, held) in readers {
            assert!(reader.await.unwrap_err().is_cancelled());
            watched.push(held);
        }
        let held = || watched.iter().filter(|held| held.strong_count() > 0).count();
        assert_eq!(
            (begun.load(Ordering::SeqCst), held()),
            (2, 2),
            "what is read for nobody is still counted"
        );
        doors.lock().clear();
        while held() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(room.read((), || 7).await, Ok(7));
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_leaves_its_seat() {
        let room = ReadingRoom::new(1);
        for _ in 0..3 {
            let read = room.read::<()>((), || panic!("a template")).await;
            assert!(matches!(read, Err(GenerateError::Internal { .. })));
        }
        assert_eq!(room.read((), || 1).await, Ok(1));
    }
}
