//! Which adapters may be in a step, when not all can.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;

use crate::domain::{AdapterKey, Domain};

/// Steps that an adapter keeps its place while others wait for one. Taking turns every step would load adapters onto
/// the device again and again; at 16 a load is spread over 16 tokens of each of its sequences.
pub const ADAPTER_TURN_STEPS: u32 = 16;

/// A stage with a bounded number of places, and the queue before it.
///
/// Who has been on the stage for [`ADAPTER_TURN_STEPS`] steps goes to the end of the queue when somebody waits there.
/// So of A adapters that have work, with room for K, each comes on stage within `ceil(A / K) * ADAPTER_TURN_STEPS`
/// steps and stays for as many. The longest on the stage comes first in a step. An adapter that found no room on the
/// device goes to the front of the queue, and the stage shrinks to what was placed; as the others' turns end, it comes
/// to be the first of a step, which has the device's whole room. A place is added after every
/// [`ADAPTER_TURN_STEPS`] steps in which all were filled.
#[derive(Debug, Default)]
pub(crate) struct AdapterTurns {
    most: Option<NonZeroUsize>,
    /// What the device had room for, once that was less than was asked.
    learnt: Option<NonZeroUsize>,
    full_steps: u32,
    stage: Vec<Turn>,
    queue: VecDeque<AdapterKey>,
    /// Where on the stage an adapter is.
    places: HashMap<AdapterKey, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    adapter: AdapterKey,
    steps: u32,
}

impl AdapterTurns {
    /// Nobody is on the stage of `most` places, of any number when `None`.
    pub fn new(most: Option<NonZeroUsize>) -> Self {
        Self { most, ..Self::default() }
    }

    /// Sets the stage for a step. `working` are the domains that have work, once or more; newcomers queue in its order.
    pub fn begin(&mut self, working: impl Iterator<Item = Domain>) {
        let mut present = HashSet::new();
        let mut adapters: Vec<AdapterKey> = working.filter_map(Domain::adapter).collect();
        adapters.retain(|adapter| present.insert(*adapter));
        self.stage.retain(|turn| present.contains(&turn.adapter));
        self.queue.retain(|adapter| present.contains(adapter));
        let listed: HashSet<_> =
            self.stage.iter().map(|turn| turn.adapter).chain(self.queue.iter().copied()).collect();
        self.queue.extend(adapters.into_iter().filter(|adapter| !listed.contains(adapter)));

        let room = self.room();
        for turn in self.stage.drain(room.min(self.stage.len())..).rev() {
            self.queue.push_front(turn.adapter);
        }
        let mut wanted = self.queue.len().saturating_sub(room - self.stage.len());
        let mut gone = Vec::new();
        self.stage.retain(|turn| {
            let goes = wanted > 0 && turn.steps >= ADAPTER_TURN_STEPS;
            if goes {
                wanted -= 1;
                gone.push(turn.adapter);
            }
            !goes
        });
        let coming = self.queue.len().min(room - self.stage.len());
        self.stage.extend(self.queue.drain(..coming).map(|adapter| Turn { adapter, steps: 0 }));
        self.queue.extend(gone);
        self.places = self.stage.iter().enumerate().map(|(place, turn)| (turn.adapter, place)).collect();
    }

    /// Whether rows of `domain` may be in the step. The base always may.
    pub fn is_on_stage(&self, domain: Domain) -> bool {
        domain.adapter().is_none_or(|adapter| self.places.contains_key(&adapter))
    }

    /// Whether rows of a domain that has work from now on may be in the step; if not, its adapter queues.
    pub fn join(&mut self, domain: Domain) -> bool {
        let Some(adapter) = domain.adapter().filter(|_| !self.is_on_stage(domain)) else { return true };
        if self.stage.len() < self.room() {
            self.places.insert(adapter, self.stage.len());
            self.stage.push(Turn { adapter, steps: 0 });
            return true;
        }
        if !self.queue.contains(&adapter) {
            self.queue.push_back(adapter);
        }
        false
    }

    /// Where rows of `domain` belong among those of the step: the base first, then the adapters in the order in which
    /// they came on stage.
    pub fn order(&self, domain: Domain) -> Option<usize> {
        domain.adapter().and_then(|adapter| self.places.get(&adapter).copied())
    }

    /// Takes note of a step, where the domains of `ran` had rows that were computed and those of `deferred` had rows
    /// that found no room.
    pub fn end(&mut self, ran: &HashSet<Domain>, deferred: &HashSet<Domain>) {
        let placed = ran.iter().filter(|domain| domain.adapter().is_some()).count();
        let turned_away = |turn: &Turn| {
            let domain = Domain::Adapter(turn.adapter);
            deferred.contains(&domain) && !ran.contains(&domain)
        };
        let back: Vec<_> =
            self.stage.iter().filter(|turn| turned_away(turn)).map(|turn| turn.adapter).collect();
        self.stage.retain(|turn| !turned_away(turn));
        for turn in &mut self.stage {
            turn.steps = turn.steps.saturating_add(1);
        }
        self.learn(placed, !back.is_empty());
        back.into_iter().rev().for_each(|adapter| self.queue.push_front(adapter));
    }

    fn room(&self) -> usize {
        [self.most, self.learnt].into_iter().flatten().min().map_or(usize::MAX, NonZeroUsize::get)
    }

    fn learn(&mut self, placed: usize, turned_away: bool) {
        if turned_away {
            // A step in which no adapter had room says nothing about how many have.
            self.learnt = NonZeroUsize::new(placed).or(self.learnt);
            self.full_steps = 0;
        } else if let Some(learnt) = self.learnt.filter(|learnt| placed >= learnt.get()) {
            self.full_steps += 1;
            if self.full_steps >= ADAPTER_TURN_STEPS {
                self.learnt = Some(learnt.saturating_add(1));
                self.full_steps = 0;
            }
        }
    }
}
