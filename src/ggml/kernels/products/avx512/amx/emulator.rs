//! Tiles on a processor without them, for tests: the signal of an unknown instruction is caught, and
//! the instruction computed as Intel's manual of instructions describes it. So the kernels are tested
//! on every processor with AVX-512 and BF16.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::Once;

use libc::{siginfo_t, ucontext_t};

use super::configuration::is_available;
use super::tiles::{ROW, ROWS};

/// Catches unknown instructions of this process, unless the processor has tiles.
pub(in super::super::super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if is_available() {
            return;
        }
        // SAFETY: the handler has the signature of SA_SIGINFO, and calls nothing that allocates or locks.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            let installed = libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut());
            assert_eq!(installed, 0);
        }
    });
}

/// Bytes that LDTILECFG loads.
const CONFIGURATION: usize = 64;
const TILES: usize = 8;

type Tile = [[u8; ROW]; ROWS];

/// The tiles of a thread.
struct State {
    configuration: [u8; CONFIGURATION],
    tiles: [Tile; TILES],
}

impl State {
    /// Rows of a tile, and bytes of each.
    fn size(&self, tile: usize) -> (usize, usize) {
        let bytes = [0, 1].map(|i| self.configuration[16 + 2 * tile + i]);
        assert!(self.configuration[0] == 1 && tile < TILES, "no such tile");
        let size = (self.configuration[48 + tile], u16::from_le_bytes(bytes));
        (size.0.into(), size.1.into())
    }

    /// LDTILECFG.
    ///
    /// # Safety
    /// `from` has a configuration.
    unsafe fn configure(&mut self, from: *const u8) {
        // SAFETY: by the contract of this function.
        self.configuration = unsafe { from.cast::<[u8; CONFIGURATION]>().read_unaligned() };
        self.tiles = [[[0; ROW]; ROWS]; TILES];
        match self.configuration[0] {
            0 => self.configuration = [0; CONFIGURATION],
            1 => {
                let reserved = [&self.configuration[1..16], &self.configuration[32..48]];
                assert!(reserved.concat().iter().all(|byte| *byte == 0));
                for tile in 0..TILES {
                    let (rows, bytes) = self.size(tile);
                    assert!(rows <= ROWS && bytes <= ROW && (rows == 0) == (bytes == 0));
                }
            }
            other => panic!("no palette {other}"),
        }
    }

    /// TDPBF16PS: pairs of BF16 in the rows of `a` times pairs in the columns of `b`.
    #[target_feature(enable = "avx512f,fma")]
    fn multiply(&mut self, sums: usize, a: usize, b: usize) {
        assert!(sums != a && a != b && b != sums, "one tile twice");
        let ((rows, bytes), (a_rows, a_bytes), (b_rows, b_bytes)) =
            (self.size(sums), self.size(a), self.size(b));
        assert!(rows == a_rows && bytes == b_bytes && a_bytes == 4 * b_rows);
        for row in 0..rows {
            let mut parts = [[0.0_f32; ROW / 4]; 2];
            for k in 0..b_rows {
                for (half, parts) in parts.iter_mut().enumerate() {
                    let x = bf16(&self.tiles[a][row], 2 * k + half);
                    for (column, part) in parts[..bytes / 4].iter_mut().enumerate() {
                        let y = bf16(&self.tiles[b][k], 2 * column + half);
                        *part = flush(x.mul_add(y, *part));
                    }
                }
            }
            let sums = self.tiles[sums][row][..bytes].as_chunks_mut::<4>().0;
            for (column, sum) in sums.iter_mut().enumerate() {
                let part = flush(parts[0][column] + parts[1][column]);
                *sum = flush(flush(f32::from_le_bytes(*sum)) + part).to_le_bytes();
            }
        }
    }
}

/// A number in BF16, 0 in place of a subnormal one.
fn bf16(row: &[u8; ROW], number: usize) -> f32 {
    let bytes = [row[2 * number], row[2 * number + 1]];
    flush(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
}

/// 0 in place of a subnormal number.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 * x } else { x }
}

thread_local! {
    static STATE: UnsafeCell<State> = const {
        UnsafeCell::new(State {
            configuration: [0; CONFIGURATION],
            tiles: [[[0; ROW]; ROWS]; TILES],
        })
    };
}

/// Computes an instruction with tiles and continues after it; any other ends the process, as without
/// a handler.
extern "C" fn handle(signal: i32, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes the state of the thread, which has just read the instruction; the state of its
    // tiles is used here alone.
    unsafe {
        let registers = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
        let known = STATE.with(|state| execute(registers, &mut *state.get()));
        match known {
            Some(bytes) => registers[libc::REG_RIP as usize] += bytes as i64,
            None => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

/// Computes an instruction with tiles; returns its length in bytes, or `None` for any other.
///
/// # Safety
/// The registers are those of a thread at an instruction, and `state` its tiles.
unsafe fn execute(registers: &[i64], state: &mut State) -> Option<usize> {
    // SAFETY: by the contract of this function; instructions with tiles read and write memory as here.
    unsafe {
        let at = registers[libc::REG_RIP as usize] as *const u8;
        let byte = |i: usize| at.add(i).read();
        // The prefix VEX with three bytes: inverted bits of registers, the table of instructions, a third
        // register, the length of vectors, and what stands for a prefix of one byte.
        let (upper, third) = (!byte(1), !byte(2) >> 3 & 15);
        if byte(0) != 0xc4 || byte(1) & 31 != 2 || byte(2) & 0x84 != 0 {
            return None;
        }
        let (prefix, code, operands) = (byte(2) & 3, byte(3), byte(4));
        let extend =
            |bit: u8, number: u8| usize::from(upper >> bit & 1) * 8 + usize::from(number & 7);
        let (register, other) = (extend(7, operands >> 3), extend(5, operands));
        let tile = |number: usize| number.min(TILES);
        if operands >> 6 == 3 {
            match (code, prefix) {
                // TILERELEASE
                (0x49, 0) => state.configure([0; CONFIGURATION].as_ptr()),
                // TDPBF16PS
                (0x5c, 2) => state.multiply(tile(register), tile(other), tile(third.into())),
                _ => return None,
            }
            return Some(5);
        }
        // An address: a register, perhaps another one, perhaps a number.
        let value = |number: usize| registers[GENERAL[number]] as usize;
        let has_index = operands & 7 == 4;
        let (mut address, mut index, mut length) = (0, 0, 5);
        if has_index {
            let (base, number) = (extend(5, byte(5)), extend(6, byte(5) >> 3));
            index = if number == 4 {
                0
            } else {
                value(number) << (byte(5) >> 6)
            };
            address += value(base);
            length += 1;
        } else {
            address += value(other);
        }
        match operands >> 6 {
            0 => assert!(
                operands & 7 != 5 && !(has_index && byte(5) & 7 == 5),
                "no base"
            ),
            1 => {
                address = address.wrapping_add_signed(isize::from(byte(length).cast_signed()));
                length += 1;
            }
            _ => {
                let number = at.add(length).cast::<i32>().read_unaligned();
                address = address.wrapping_add_signed(number as isize);
                length += 4;
            }
        }
        let row = |row: usize| address.wrapping_add(row.wrapping_mul(index)) as *mut u8;
        match (code, prefix) {
            // LDTILECFG
            (0x49, 0) => state.configure(row(1)),
            // STTILECFG
            (0x49, 1) => row(1).copy_from(state.configuration.as_ptr(), CONFIGURATION),
            // TILELOADD
            (0x4b, 3) => {
                let (rows, bytes) = state.size(register);
                let tile = &mut state.tiles[register];
                *tile = [[0; ROW]; ROWS];
                for (i, to) in tile.iter_mut().take(rows).enumerate() {
                    to.as_mut_ptr().copy_from(row(i), bytes);
                }
            }
            // TILESTORED
            (0x4b, 2) => {
                let (rows, bytes) = state.size(register);
                for (i, from) in state.tiles[register].iter().take(rows).enumerate() {
                    row(i).copy_from(from.as_ptr(), bytes);
                }
            }
            _ => return None,
        }
        Some(length)
    }
}

/// Where the state of a thread has each register, by the number that instructions give it.
const GENERAL: [usize; 16] = [
    libc::REG_RAX as usize,
    libc::REG_RCX as usize,
    libc::REG_RDX as usize,
    libc::REG_RBX as usize,
    libc::REG_RSP as usize,
    libc::REG_RBP as usize,
    libc::REG_RSI as usize,
    libc::REG_RDI as usize,
    libc::REG_R8 as usize,
    libc::REG_R9 as usize,
    libc::REG_R10 as usize,
    libc::REG_R11 as usize,
    libc::REG_R12 as usize,
    libc::REG_R13 as usize,
    libc::REG_R14 as usize,
    libc::REG_R15 as usize,
];

/// What this thread has as configuration of its tiles.
///
/// # Safety
/// The emulator is installed.
unsafe fn stored() -> [u8; CONFIGURATION] {
    let mut stored = [1_u8; CONFIGURATION];
    // SAFETY: the instruction writes as many bytes.
    unsafe { std::arch::asm!("sttilecfg [{}]", in(reg) &raw mut stored) };
    stored
}

#[test]
fn a_thread_gets_its_configuration_back() {
    if !is_x86_feature_detected!("avx512bf16") {
        return; // and no AMX
    }
    install();
    let mut theirs = [0_u8; CONFIGURATION];
    theirs[0] = 1;
    theirs[16..18].copy_from_slice(&[32, 0]);
    theirs[48] = 8;
    for before in [[0; CONFIGURATION], theirs] {
        // SAFETY: the emulator is installed, or there are tiles.
        unsafe {
            std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const before);
            let tiles = super::Tiles::configure();
            assert_ne!(stored(), before);
            drop(tiles);
            assert_eq!(stored(), before);
            std::arch::asm!("tilerelease");
            assert_eq!(stored(), [0; CONFIGURATION]);
        }
    }
}
