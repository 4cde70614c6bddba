//! Memory of activations, handed on from op to op: a result takes what an input, of no more use, leaves.
//!
//! The system's allocator would give buffers of this size back at once, and every op would touch fresh pages.

use std::cell::RefCell;
use std::thread::LocalKey;

use burn::tensor::bf16;
use burn_flex::FlexTensor;
use polylora_kernels_cpu as cpu;

/// Most buffers that a thread keeps.
const MOST_BUFFERS: usize = 6;
/// Most bytes that a thread keeps.
const MOST_BYTES: usize = 48 << 20;

/// A dtype of activations, with the thread's spare buffers of it.
pub(super) trait Value: cpu::Element + burn::tensor::Element + bytemuck::Pod {
    fn spare() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>>;
}

macro_rules! value {
    ($type:ty, $spare:ident) => {
        thread_local! {
            static $spare: RefCell<Vec<Vec<$type>>> = const { RefCell::new(Vec::new()) };
        }
        impl Value for $type {
            fn spare() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>> {
                &$spare
            }
        }
    };
}
value!(f32, SPARE_F32);
value!(bf16, SPARE_BF16);

/// `len` values; what they are is left over from before, or 0.
pub(super) fn take<E: Value>(len: usize) -> Vec<E> {
    let spare = E::spare().with_borrow_mut(|spare| {
        // The smallest that is large enough, but not for less than half of it: it would be missed elsewhere, and what it is shortened
        // by is filled again when it is.
        let fits = |(_, v): &(usize, &Vec<E>)| v.capacity() >= len && v.capacity() / 2 <= len;
        let best = spare.iter().enumerate().filter(fits).min_by_key(|(_, v)| v.capacity()).map(|(i, _)| i);
        best.map(|i| spare.remove(i))
    });
    let mut values = spare.unwrap_or_default();
    values.resize(len, E::default());
    values
}

/// Keeps the tensor's memory for [`take`] when nobody else has it.
pub(super) fn give<E: Value>(tensor: FlexTensor) {
    if !tensor.is_unique() || tensor.layout().start_offset() != 0 || !tensor.is_contiguous() {
        return;
    }
    let (bytes, ..) = tensor.into_data().into_parts();
    if let Ok(values) = bytes.try_into_vec::<E>() {
        E::spare().with_borrow_mut(|spare| {
            let bytes = |values: &Vec<E>| values.capacity() * size_of::<E>();
            if bytes(&values) > MOST_BYTES {
                return;
            }
            // The oldest make room: sizes change with the batches.
            let mut kept: usize = spare.iter().map(bytes).sum();
            while spare.len() >= MOST_BUFFERS || kept + bytes(&values) > MOST_BYTES {
                kept -= bytes(&spare.remove(0));
            }
            spare.push(values);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::from_values;

    #[test]
    fn a_tensors_memory_comes_back_unless_it_is_shared() {
        let tensor = from_values(take::<f32>(1000), [10, 100].into());
        let at = tensor.bytes().as_ptr();
        let other = tensor.clone();
        give::<f32>(tensor);
        let fresh = take::<f32>(1000);
        assert_ne!(fresh.as_ptr().cast(), at, "shared");
        give::<f32>(other);
        let again = take::<f32>(900);
        assert_eq!((again.as_ptr().cast(), again.len()), (at, 900));
        assert!(take::<f32>(10).capacity() < 1000, "a small one takes no large one's memory");
    }

    #[test]
    fn no_more_is_kept_than_the_bounds_say() {
        for _ in 0..2 * MOST_BUFFERS {
            give::<bf16>(from_values(vec![bf16::ONE; 64], [64].into()));
        }
        bf16::spare().with_borrow(|spare| assert_eq!(spare.len(), MOST_BUFFERS));
    }
}
