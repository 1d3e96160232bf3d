//! Memory of a thread that multiplies.

#[cfg(target_arch = "x86_64")]
use super::avx512::amx::Tiles;

/// Room for the panel of any set of instructions, whose layout is its own.
#[repr(C, align(64))]
struct Room([u8; SIZE]);

const SIZE: usize = 24 * 1024;

/// A line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

impl Default for Line {
    fn default() -> Self {
        Self([0; 64])
    }
}

/// What a thread needs for some products.
pub(crate) struct Scratch {
    /// Decoded weights.
    room: Box<Room>,
    /// Rows of activations.
    rows: Vec<Line>,
    /// The tiles of the thread, after its first product with them.
    #[cfg(target_arch = "x86_64")]
    tiles: Option<Tiles>,
}

/// A type of which all bit patterns are values.
///
/// # Safety
/// It is one.
pub(super) unsafe trait Panel {}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            room: Box::new(Room([0; SIZE])),
            rows: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            tiles: None,
        }
    }

    pub(super) fn panel<P: Panel>(&mut self) -> &mut P {
        self.panel_and_rows().0
    }

    pub(super) fn panel_and_rows<P: Panel>(&mut self) -> (&mut P, &mut Vec<Line>) {
        const { assert!(size_of::<P>() <= SIZE && align_of::<P>() <= align_of::<Room>()) };
        // SAFETY: the memory has the size and the alignment, and all bit patterns are values of `P`.
        let panel = unsafe { &mut *self.room.0.as_mut_ptr().cast() };
        (panel, &mut self.rows)
    }

    /// Configures the tiles of this thread, until the end of this value.
    ///
    /// # Safety
    /// The processor has them.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn configure_tiles(&mut self) {
        // SAFETY: by the contract of this function.
        self.tiles
            .get_or_insert_with(|| unsafe { Tiles::configure() });
    }
}
