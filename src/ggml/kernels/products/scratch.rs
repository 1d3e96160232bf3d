//! Memory for decoded weights.

/// Room for the panel of any set of instructions, whose layout is its own.
#[repr(C, align(64))]
pub(super) struct Scratch([u8; SIZE]);

const SIZE: usize = 24 * 1024;

/// A type of which all bit patterns are values.
///
/// # Safety
/// It is one.
pub(super) unsafe trait Panel {}

impl Scratch {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self([0; SIZE]))
    }

    pub(super) fn panel<P: Panel>(&mut self) -> &mut P {
        const { assert!(size_of::<P>() <= SIZE && align_of::<P>() <= align_of::<Self>()) };
        // SAFETY: the memory has the size and the alignment, and all bit patterns are values of `P`.
        unsafe { &mut *self.0.as_mut_ptr().cast() }
    }
}
