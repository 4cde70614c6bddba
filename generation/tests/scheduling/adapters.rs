//! Laws of steps that not every adapter can be in.

use std::collections::{BTreeMap, BTreeSet};

use polylora_generation::{ADAPTER_TURN_STEPS, Domain, SchedulerLimits};
use proptest::prelude::*;

use crate::client::{Client, limits, some};
use crate::fake_device::domain;

const TURN: usize = ADAPTER_TURN_STEPS as usize;

/// A client with two sequences of each of the first `domains` domains, long enough to run through the test.
fn busy(limits: SchedulerLimits, domains: u8) -> Client {
    let mut client = Client::new(SchedulerLimits { max_running: some(40), ..limits });
    for number in (0..domains).chain(0..domains) {
        client.ask(number, &[number.into()], 1, 300).unwrap();
    }
    client
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn each_adapter_comes_into_turn_within_a_round_and_the_base_is_in_every_step(
        domains in 2u8..9, places in 1usize..6,
    ) {
        let mut client = busy(SchedulerLimits { most_adapters: Some(some(places)), ..limits(4, 3000) }, domains);
        let adapters = domains as usize - 1;
        let round = adapters.div_ceil(places) * TURN;
        let mut last = BTreeMap::new();
        for step in 1..=2 * round {
            let (batch, _) = client.step_with(|_| {}).unwrap();
            let present: BTreeSet<Domain> = batch.rows.iter().map(|row| row.domain).collect();
            prop_assert!(present.contains(&Domain::Base));
            prop_assert_eq!(batch.rows[0].domain, Domain::Base);
            prop_assert_eq!(present.len(), 1 + adapters.min(places), "a place is empty");
            prop_assert_eq!(batch.rows.len(), 2 * present.len(), "all of a domain are in a step");
            last.extend(present.into_iter().map(|domain| (domain, step)));
            for number in 1..domains {
                let waited = step - last.get(&domain(number)).copied().unwrap_or(0);
                prop_assert!(waited <= round, "adapter {} waits since {} steps", number, waited);
            }
        }
    }

    #[test]
    fn a_device_with_little_room_serves_every_adapter_and_turns_few_rows_away(domains in 3u8..9, room in 1usize..5) {
        let mut client = busy(limits(4, 3000), domains);
        client.device.room = room;
        let adapters = domains as usize - 1;
        let steps = 4 * (adapters.div_ceil(room) + 1) * TURN;
        let mut turned_away = 0;
        for _ in 0..steps {
            let (batch, _) = client.step_with(|_| {}).unwrap();
            let present: BTreeSet<Domain> = batch.rows.iter().map(|row| row.domain).collect();
            turned_away += usize::from(present.len() - 1 > room);
        }
        let drawn: Vec<usize> = client.live.values().map(|live| live.drawn.len()).collect();
        prop_assert!(drawn.iter().all(|drawn| *drawn >= 2 * TURN), "{:?} in {} steps", drawn, steps);
        prop_assert!(turned_away <= 1 + steps / TURN, "{} of {} steps", turned_away, steps);
    }
}

#[test]
fn an_adapter_that_needs_the_whole_device_gets_it() {
    let mut client = busy(limits(4, 3000), 5);
    client.device.room = 3;
    client.device.heavy = Some(domain(4));
    for _ in 0..12 * TURN {
        client.step();
    }
    let mut drawn = BTreeMap::new();
    for live in client.live.values() {
        drawn.insert(live.domain, live.drawn.len());
    }
    assert!(drawn.values().all(|drawn| *drawn >= TURN), "{drawn:?}");
}

#[test]
fn places_that_are_left_are_taken_by_whoever_comes() {
    let mut client = busy(SchedulerLimits { most_adapters: Some(some(2)), ..limits(4, 3000) }, 2);
    client.step();
    client.ask(2, &[0], 1, 4).unwrap();
    client.ask(3, &[0], 1, 4).unwrap();
    let (batch, _) = client.step_with(|_| {}).unwrap();
    let present: BTreeSet<Domain> = batch.rows.iter().map(|row| row.domain).collect();
    assert_eq!(present, BTreeSet::from([domain(0), domain(1), domain(2)]));
}

#[test]
fn a_turn_lasts_while_nobody_waits_for_it() {
    let mut client = busy(SchedulerLimits { most_adapters: Some(some(2)), ..limits(4, 3000) }, 3);
    for _ in 0..3 * TURN {
        assert_eq!(client.step_with(|_| {}).unwrap().0.rows.len(), 6);
    }
}

#[test]
fn a_device_that_gets_room_again_is_filled_again() {
    let mut client = busy(limits(4, 3000), 5);
    client.device.room = 1;
    client.step();
    client.device.room = usize::MAX;
    assert_eq!(client.step_with(|_| {}).unwrap().0.rows.len(), 4, "the base and one adapter");
    (0..3 * TURN).for_each(|_| drop(client.step()));
    assert_eq!(client.step_with(|_| {}).unwrap().0.rows.len(), 10);
}
