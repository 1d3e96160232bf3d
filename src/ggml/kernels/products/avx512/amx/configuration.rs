//! The tiles of a thread: whether this process may use them, and how they are configured.

use std::arch::asm;
use std::marker::PhantomData;

use super::tiles::{ROW, ROWS};

/// Whether the processor multiplies tiles of BF16, and the system lets this process do so.
pub(in super::super::super) fn is_available() -> bool {
    static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && is_permitted())
}

/// Whether the processor has AMX-TILE and AMX-BF16. Source: Intel's manual of instructions, CPUID.
#[allow(unused_unsafe, reason = "older versions of Rust need it")]
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const NEEDED: u32 = AMX_BF16 | AMX_TILE;
    // SAFETY: all processors of this architecture have the instruction.
    unsafe { __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & NEEDED == NEEDED }
}

/// Asks Linux for the state of tiles, which a process has only after that. All its threads have it
/// then.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers, and a kernel that does not know them returns an error.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// What LDTILECFG loads. Source: Intel's manual of instructions, LDTILECFG.
#[derive(Default)]
#[repr(C, align(64))]
struct Configuration {
    /// 1 if there are tiles, 0 if there are none.
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile.
    columns: [u16; 16],
    rows: [u8; 16],
}

/// The tiles of this thread, all of [`ROWS`] rows of [`ROW`] bytes. ggml has tiles of another size,
/// which it configures once for each of its threads: they come back at the end.
pub(in super::super::super) struct Tiles {
    before: Configuration,
    /// They are those of a thread.
    of_thread: PhantomData<*const ()>,
}

impl Tiles {
    /// # Safety
    /// [`is_available`].
    pub(in super::super::super) unsafe fn configure() -> Self {
        const TILES: usize = 8;
        let mut before = Configuration::default();
        let mut ours = Configuration {
            palette: 1,
            ..Configuration::default()
        };
        ours.columns[..TILES].fill(ROW as u16);
        ours.rows[..TILES].fill(ROWS as u8);
        // SAFETY: by the contract of this function; both have 64 bytes.
        unsafe {
            asm!("sttilecfg [{}]", in(reg) &raw mut before, options(nostack, preserves_flags));
            load(&ours);
        }
        Self {
            before,
            of_thread: PhantomData,
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there are tiles, so the instruction exists; this was the configuration of this thread.
        unsafe { load(&self.before) };
    }
}

/// Configures the tiles, which become zeros. Without a palette they are released.
///
/// # Safety
/// [`is_available`], and no other code of this thread has numbers in tiles.
unsafe fn load(configuration: &Configuration) {
    // SAFETY: by the contract of this function. Tiles have no number that is needed later.
    unsafe {
        asm!(
            "ldtilecfg [{}]",
            in(reg) configuration,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, readonly),
        );
    }
}
