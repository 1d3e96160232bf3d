//! The innermost loop: tiles of inputs times a panel.

use std::arch::asm;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Bytes of a row of a tile.
pub(super) const ROW: usize = 64;
/// Elements of BF16 in a row of a tile. A panel has half as many vectors of pairs for each product
/// of tiles.
pub(super) const DEPTH: usize = ROW / 2;
/// Tiles of inputs that are multiplied together, as many as there is room for sums.
pub(super) const TOGETHER: usize = 4;

/// Rows in memory.
#[derive(Clone, Copy)]
pub(super) struct Rows<T> {
    pub(super) first: *mut T,
    /// Bytes from one to the next.
    pub(super) stride: usize,
}

impl<T> Rows<T> {
    /// Those from the tile with this number on.
    fn tile(self, number: usize) -> *mut T {
        self.first.wrapping_byte_add(number * ROWS * self.stride)
    }
}

/// Adds to `sums` the products of `panel`, vectors of pairs of BF16, with 1 to [`TOGETHER`] tiles of
/// `inputs`, rows of as many elements in BF16. Source: Intel's manual of instructions, TDPBF16PS.
///
/// # Safety
/// Tiles are configured; `panel` has `depth` times [`DEPTH`] elements of [`ROWS`] rows, and there are
/// as many in each of `tiles` times [`ROWS`] rows of `inputs`; `sums` has a row of [`ROWS`] for each
/// input.
pub(super) unsafe fn multiply(
    tiles: usize,
    panel: *const i32,
    depth: usize,
    inputs: Rows<u8>,
    sums: Rows<f32>,
) {
    macro_rules! multiply {
        ($($tile:literal $input:literal $name:ident),*; $($last_first:literal),*) => {
            asm!(
                $(
                    concat!("tileloadd tmm", $tile, ", [{sums} + {sums_stride}*1]"),
                    "add {sums}, {sums_of_tile}",
                )*
                "2:",
                "tileloadd tmm6, [{panel} + {row}*1]",
                $(
                    concat!("tileloadd tmm", $input, ", [{", stringify!($name), "} + {inputs_stride}*1]"),
                    concat!("tdpbf16ps tmm", $tile, ", tmm", $input, ", tmm6"),
                    concat!("add {", stringify!($name), "}, {row}"),
                )*
                "add {panel}, {panel_of_tile}",
                "dec {depth}",
                "jnz 2b",
                $(
                    "sub {sums}, {sums_of_tile}",
                    concat!("tilestored [{sums} + {sums_stride}*1], tmm", $last_first),
                )*
                sums = inout(reg) sums.first => _,
                sums_stride = in(reg) sums.stride,
                sums_of_tile = in(reg) ROWS * sums.stride,
                panel = inout(reg) panel => _,
                panel_of_tile = const ROWS * ROW,
                row = in(reg) ROW,
                depth = inout(reg) depth => _,
                inputs_stride = in(reg) inputs.stride,
                $($name = inout(reg) inputs.tile($tile) => _,)*
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack),
            )
        };
    }
    assert!(depth > 0, "a panel has elements");
    // SAFETY: by the contract of this function. Two tiles take turns as inputs.
    unsafe {
        match tiles {
            1 => multiply!(0 4 a; 0),
            2 => multiply!(0 4 a, 1 5 b; 1, 0),
            3 => multiply!(0 4 a, 1 5 b, 2 4 c; 2, 1, 0),
            4 => multiply!(0 4 a, 1 5 b, 2 4 c, 3 5 d; 3, 2, 1, 0),
            _ => unreachable!("1 to {TOGETHER} tiles are multiplied together"),
        }
    }
}
