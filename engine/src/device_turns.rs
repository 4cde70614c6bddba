//! Who computes next where an embedding model and a language model share a device.
//!
//! A turn is one batch of embeddings or one step of generation. Whoever wants one draws a ticket, and tickets are served in
//! the order in which they were drawn. Each model has one thread that asks, so with both busy the turns alternate, and
//! neither ever waits for more than the one turn that is under way: a batch of embeddings for one step of at most
//! `max_batch_tokens` tokens however many and long the texts are, a token for one batch of embeddings. While one is idle
//! the other has every turn.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// The turns of one device.
#[derive(Clone, Debug, Default)]
pub struct DeviceTurns(Arc<Counter>);

/// A turn, which lasts until it is dropped.
pub(crate) struct Turn<'a> {
    counter: &'a Counter,
}

/// The right to one turn. It must be used: whoever comes later waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    number: u64,
    /// Turns before this one, the one that is under way included.
    ahead: u64,
}

#[derive(Debug, Default)]
struct Counter {
    tickets: Mutex<Tickets>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Tickets {
    /// The next one to be drawn.
    next: u64,
    /// The one whose turn it is; `next` while it is nobody's.
    serving: u64,
}

impl DeviceTurns {
    /// Draws a ticket and waits until it is called.
    pub(crate) fn take(&self) -> Turn<'_> {
        self.wait_for(self.draw())
    }

    fn draw(&self) -> Ticket {
        let mut tickets = self.0.tickets.lock();
        let number = tickets.next;
        tickets.next += 1;
        Ticket { number, ahead: number - tickets.serving }
    }

    fn wait_for(&self, ticket: Ticket) -> Turn<'_> {
        if ticket.ahead > 0 {
            let mut tickets = self.0.tickets.lock();
            self.0.called.wait_while(&mut tickets, |tickets| tickets.serving != ticket.number);
        }
        Turn { counter: &self.0 }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.counter.tickets.lock().serving += 1;
        self.counter.called.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let (turns, order) = (DeviceTurns::default(), Mutex::new(vec![]));
        thread::scope(|scope| {
            let first = turns.take();
            for number in 1..=20 {
                let ticket = turns.draw();
                assert_eq!(ticket, Ticket { number, ahead: number });
                let (turns, order) = (&turns, &order);
                scope.spawn(move || {
                    let _turn = turns.wait_for(ticket);
                    order.lock().push(number);
                });
            }
            drop(first);
        });
        assert_eq!(order.into_inner(), (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn of_two_that_are_always_busy_none_waits_for_more_than_the_turn_that_is_under_way() {
        let (turns, is_over, taken) = (DeviceTurns::default(), AtomicBool::new(false), AtomicUsize::new(0));
        let take_one = || {
            let ticket = turns.draw();
            assert!(ticket.ahead <= 1, "{ticket:?}");
            let _turn = turns.wait_for(ticket);
            taken.fetch_add(1, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    take_one();
                }
            });
            while taken.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            (0..2000).for_each(|_| take_one());
            is_over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn who_is_alone_has_every_turn_and_a_panic_ends_one() {
        let turns = DeviceTurns::default();
        for _ in 0..3 {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _turn = turns.take();
                panic!("within a turn");
            }));
            assert!(panicked.is_err());
            let ticket = turns.draw();
            assert_eq!(ticket.ahead, 0);
            drop(turns.wait_for(ticket));
        }
    }
}
