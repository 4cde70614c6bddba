//! A batch cut by texts for the threads of a CPU: each share goes through all layers on one thread, with its activations in
//! that core's cache, and nobody waits for anybody until the end.

use std::ops::Range;

/// Fewer tokens a thread are not worth a share of their own: each share reads all weights, and reading them would cost more
/// than sharing out every op.
const FEWEST_TOKENS: usize = 64;
/// So many threads with shares are better than more that share out every op.
const ENOUGH_THREADS: usize = 8;

/// What a share costs beside its tokens, as a part of the goal: of that many, reading the weights is to be a small part.
const PART_FOR_WEIGHTS: usize = 16;
/// What another number of shares must save, in percent, to be chosen.
const WORTH_IT: usize = 1;

/// The shares of texts with `lengths` tokens for `threads` threads, in order, of about `goal` tokens each: as many for every
/// thread, unless the threads are done sooner with a few more or less. A share has half of the goal to one and a half, but for
/// what a text at its ends has more or less. One share where the ops had better be shared out themselves.
pub(crate) fn text_shares(lengths: &[usize], threads: usize, goal: usize) -> Vec<Range<usize>> {
    let total: usize = lengths.iter().sum();
    let whole = 0..lengths.len();
    // Of many threads some may have nothing to do: a few that go through all layers by themselves are as good.
    let useful = threads.min(total / FEWEST_TOKENS).min(lengths.len());
    if threads > 1 && useful < threads.min(ENOUGH_THREADS) {
        return vec![whole];
    }
    let (every, threads) = (threads, useful.max(1));
    let each = ((total + threads * goal / 2) / (threads * goal)).max(1);
    let count = (each * threads).min(lengths.len());
    let even = cut(lengths, count);
    // With fewer tokens than threads could take, more shares would only be taken by more of them.
    if threads == 1 || total < every * FEWEST_TOKENS {
        return even;
    }
    let fewest = threads.max((total * 2).div_ceil(goal * 3)).min(count);
    let most = (total * 2 / goal).min(lengths.len()).max(count);
    let step = (threads / 2).max(1);
    let others = (1..=2).map(|fewer| count.saturating_sub(fewer * step).max(fewest));
    let others = others.chain((1..=4).map(|more| (count + more * step).min(most)));
    let timed =
        |shares: Vec<Range<usize>>| (time(lengths, &shares, threads, goal / PART_FOR_WEIGHTS), shares);
    let (even_time, even) = timed(even);
    let best = others.map(|count| timed(cut(lengths, count))).min_by_key(|(time, _)| *time);
    match best {
        Some((time, best)) if time * 100 < even_time * (100 - WORTH_IT) => best,
        _ => even,
    }
}

/// Cuts texts into at most `count` shares of about as many tokens.
fn cut(lengths: &[usize], count: usize) -> Vec<Range<usize>> {
    let total: usize = lengths.iter().sum();
    let mut shares = vec![];
    let (mut start, mut before) = (0, 0);
    for share in 0..count {
        let until = total * (share + 1) / count;
        let mut end = start;
        // A text belongs to the share in which its middle lies.
        while end < lengths.len() && before + lengths[end] / 2 < until {
            before += lengths[end];
            end += 1;
        }
        if share + 1 == count {
            end = lengths.len();
        }
        if end > start {
            shares.push(start..end);
        }
        start = end;
    }
    shares
}

/// How long `threads` threads take for shares, the longest of which go first, in tokens; each costs `more` than its own.
fn time(lengths: &[usize], shares: &[Range<usize>], threads: usize, more: usize) -> usize {
    let mut costs: Vec<usize> =
        shares.iter().map(|share| lengths[share.clone()].iter().sum::<usize>() + more).collect();
    costs.sort_unstable_by(|a, b| b.cmp(a));
    let mut busy = vec![0; threads];
    for cost in costs {
        if let Some(first) = busy.iter_mut().min() {
            *first += cost;
        }
    }
    busy.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_cover_every_text_once_and_in_order(
            lengths in proptest::collection::vec(1usize..300, 1..150), threads in 1usize..9,
            goal in 64usize..500,
        ) {
            let shares = text_shares(&lengths, threads, goal);
            let mut next = 0;
            for share in &shares {
                prop_assert_eq!(share.start, next);
                prop_assert!(!share.is_empty());
                next = share.end;
            }
            prop_assert_eq!(next, lengths.len());
            let longest = *lengths.iter().max().expect("a text");
            let tokens = |share: &Range<usize>| lengths[share.clone()].iter().sum::<usize>();
            if shares.len() > 1 {
                prop_assert!(shares.iter().all(|share| tokens(share) <= goal + goal / 2 + longest));
            }
        }

        #[test]
        fn equal_texts_are_shared_out_evenly(texts in 20usize..300, length in 16usize..40, threads in 1usize..5) {
            let shares = text_shares(&vec![length; texts], threads, 112);
            let (least, most) = (shares.iter().map(Range::len).min(), shares.iter().map(Range::len).max());
            prop_assert!(most.expect("a share") - least.expect("a share") <= 1);
            prop_assert!(shares.len().is_multiple_of(threads));
        }
    }

    #[test]
    fn texts_of_mixed_lengths_keep_no_thread_waiting_for_long() {
        // In six even shares, one thread would have 350 of the 660 tokens.
        let lengths = [120, 20, 100, 60, 90, 30, 110, 40, 70, 20];
        let mut tokens: Vec<usize> =
            text_shares(&lengths, 2, 112).into_iter().map(|share| lengths[share].iter().sum()).collect();
        tokens.sort_unstable();
        let mut busy = [0, 0];
        while let Some(longest) = tokens.pop() {
            let first = usize::from(busy[1] < busy[0]);
            busy[first] += longest;
        }
        assert!(busy.iter().max() < Some(&340), "{busy:?}");
    }

    #[test]
    fn a_few_tokens_stay_together() {
        assert_eq!(text_shares(&[16], 2, 112), vec![0..1]);
        assert_eq!(text_shares(&[500], 2, 112), vec![0..1]);
        assert_eq!(text_shares(&[10, 10, 10], 2, 112), vec![0..3]);
        assert_eq!(text_shares(&[200, 200], 2, 112), vec![0..1, 1..2]);
        assert_eq!(text_shares(&[64; 7], 64, 112), vec![0..7]);
        assert_eq!(text_shares(&[64; 32], 64, 112).len(), 32);
    }
}
