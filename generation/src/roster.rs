//! Who runs and who waits, by age.
//!
//! Only the oldest that waits is admitted and only the youngest that runs is sent back, so that whoever runs is older
//! than whoever waits. That nobody starves rests on this.

use std::collections::{BTreeMap, HashMap};

use crate::sequence::{Age, Member, NewSequence, Sequence, SequenceId};

/// The sequences that did not end.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    running: BTreeMap<Age, Sequence>,
    waiting: BTreeMap<Age, Sequence>,
    /// Under which age a sequence is found: its own once it parted from its siblings.
    places: HashMap<SequenceId, Age>,
    next_age: u64,
}

impl Roster {
    /// The request is the youngest that waits.
    pub fn enqueue(&mut self, new: NewSequence) {
        let member = |index| Member { id: new.id.sibling(index), age: Age(self.next_age + index as u64) };
        let members: Vec<Member> = (0..new.copies.get()).map(member).collect();
        let place = Age(self.next_age);
        self.next_age += members.len() as u64;
        for member in &members {
            let old = self.places.insert(member.id, place);
            assert!(old.is_none(), "{:?} is enqueued a second time", member.id);
        }
        self.waiting.insert(place, Sequence::new(new, members));
    }

    /// Forgets a sequence; says whether it was there. The last of its siblings gives the blocks back.
    pub fn remove(&mut self, id: SequenceId) -> bool {
        let Some(place) = self.places.remove(&id) else { return false };
        for side in [&mut self.running, &mut self.waiting] {
            if let Some(sequence) = side.get_mut(&place) {
                sequence.members.retain(|member| member.id != id);
                if sequence.members.is_empty() {
                    side.remove(&place);
                }
            }
        }
        true
    }

    /// Whether the sequence runs or waits.
    pub fn contains(&self, id: SequenceId) -> bool {
        self.places.contains_key(&id)
    }

    /// Whether nobody runs or waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Who runs, the oldest first.
    pub fn running(&self) -> impl Iterator<Item = (Age, &Sequence)> {
        self.running.iter().map(|(age, sequence)| (*age, sequence))
    }

    /// Who waits, the oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = (Age, &Sequence)> {
        self.waiting.iter().map(|(age, sequence)| (*age, sequence))
    }

    /// One that runs; `None` once it was preempted or removed.
    pub fn running_mut(&mut self, age: Age) -> Option<&mut Sequence> {
        self.running.get_mut(&age)
    }

    /// One that runs or waits.
    pub fn find_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        let place = self.places.get(&id)?;
        self.running.get_mut(place).or_else(|| self.waiting.get_mut(place))
    }

    /// The oldest that waits.
    pub fn oldest_waiting_mut(&mut self) -> Option<&mut Sequence> {
        self.waiting.first_entry().map(|entry| entry.into_mut())
    }

    /// The oldest that waits runs from now on.
    pub fn admit_oldest(&mut self) -> Option<Age> {
        let (age, sequence) = self.waiting.pop_first()?;
        self.running.insert(age, sequence);
        Some(age)
    }

    /// The youngest that runs gives its blocks back and waits, before all others that wait; says whether there was one.
    pub fn preempt_youngest(&mut self) -> bool {
        let Some((age, mut sequence)) = self.running.pop_last() else { return false };
        sequence.preempt();
        self.waiting.insert(age, sequence);
        true
    }

    /// Parts siblings that run, each with the same blocks; gives their places, or nothing when none is there.
    pub fn part(&mut self, place: Age) -> Vec<Age> {
        let Some(first) = self.running.get_mut(&place) else { return Vec::new() };
        let others = first.members.split_off(1);
        let forks: Vec<_> = others.into_iter().map(|member| (member, first.fork(member))).collect();
        let mut places = vec![place];
        for (member, fork) in forks {
            places.push(member.age);
            self.places.insert(member.id, member.age);
            self.running.insert(member.age, fork);
        }
        places
    }

    /// Requests that wait; siblings that did not part are one.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Those of them that never ran. Whoever lost his blocks is older than they are, so only those are passed over.
    pub fn new_count(&self) -> usize {
        let preempted = self.waiting.values().take_while(|sequence| sequence.was_preempted).count();
        self.waiting.len() - preempted
    }

    /// Sequences that run, siblings counted one by one. O(running).
    pub fn running_members(&self) -> usize {
        self.running.values().map(|sequence| sequence.members.len()).sum()
    }

    /// Checks the order of ages, the places, and that nobody who waits has blocks.
    ///
    /// # Panics
    /// When something is amiss.
    pub fn check_integrity(&self) {
        if let (Some((youngest, _)), Some((oldest, _))) =
            (self.running.last_key_value(), self.waiting.first_key_value())
        {
            assert!(youngest < oldest, "{youngest:?} runs while {oldest:?} waits");
        }
        let mut members = 0;
        for (age, sequence) in self.running().chain(self.waiting()) {
            assert!(!sequence.members.is_empty(), "nobody draws from {age:?}");
            members += sequence.members.len();
            for member in &sequence.members {
                assert_eq!(self.places.get(&member.id), Some(&age), "the place of {:?}", member.id);
            }
        }
        assert_eq!(members, self.places.len(), "members and places");
        for (age, sequence) in self.waiting() {
            assert!(sequence.table.is_empty() && sequence.computed == 0, "{age:?} waits and has blocks");
        }
    }
}
