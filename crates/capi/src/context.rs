//! Contexts: a conversation with a model.

use std::mem::offset_of;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::border::{
    Failure, Result, StructOutput, Versioned, guard, output, read, reference, release,
};
use super::error::{diffusion_error, diffusion_status};
use super::fault;
use super::model::diffusion_model;
use llama_diffusion::{CancelFlag, FlashAttention, KvType, Session, SessionParams};

/// What one conversation owns: the KV cache and buffers for the computation. It serves one thread
/// at a time: a concurrent call returns `DIFFUSION_STATUS_BUSY` at once, also from a callback. Only
/// `diffusion_context_cancel` may be called at any time.
pub struct diffusion_context {
    pub(super) model: Arc<diffusion_model>,
    pub(super) cancel: CancelFlag,
    session: Mutex<Session>,
}

const _: () = {
    const fn any_thread_may_use<T: Send + Sync>() {}
    any_thread_may_use::<diffusion_context>();
};

impl diffusion_context {
    /// The session, if no other call uses it and none has panicked with it.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Session>> {
        let session = self.session.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Failure::new(
                diffusion_status::Busy,
                "context: another call is using it: wait for its end, or use a second context",
            ),
            TryLockError::Poisoned(_) => Failure::new(
                diffusion_status::Poisoned,
                "context: an earlier call failed by a bug of the library: free the context",
            ),
        })?;
        fault::point();
        Ok(session)
    }
}

/// Element type of cached keys and values.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_kv_type {
    /// Half precision.
    F16 = 0,
    /// Single precision.
    F32 = 1,
    /// 8 bits, half the size of F16; needs fused attention.
    Q8_0 = 2,
}

/// Whether attention runs as one fused operation.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_flash_attention {
    /// If the devices support it.
    Auto = 0,
    /// Always.
    On = 1,
    /// Never.
    Off = 2,
}

/// How a context runs. Set by `diffusion_context_params_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_context_params {
    /// Size of the struct, which identifies its version.
    pub struct_size: usize,
    /// Maximum number of tokens of prompt and answer together; 0 is what the model was trained for,
    /// up to 8192.
    pub context_length: usize,
    /// Maximum number of tokens of a prompt that one pass encodes; 0 is one canvas, at least 256.
    pub batch_size: usize,
    /// Number of CPU threads, at most as many as the process may use cores; 0 is one for each core,
    /// fewer for small models.
    pub threads: u32,
    /// A `diffusion_kv_type`.
    pub kv_type: i32,
    /// A `diffusion_flash_attention`.
    pub flash_attention: i32,
    /// 1 to keep all positions on sliding-window layers too: more memory and longer steps, but a
    /// conversation can return to any earlier point without being encoded again. Default 0.
    pub swa_full: i32,
}

// SAFETY: integers in C's layout, the size first.
unsafe impl Versioned for diffusion_context_params {
    const NAME: &'static str = "diffusion_context_params";
    const FIRST_SIZE: usize = offset_of!(Self, swa_full) + size_of::<i32>();
}

impl Default for diffusion_context_params {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            context_length: 0,
            batch_size: 0,
            threads: 0,
            kv_type: diffusion_kv_type::F16 as i32,
            flash_attention: diffusion_flash_attention::Auto as i32,
            swa_full: 0,
        }
    }
}

impl diffusion_context_params {
    fn session(&self) -> Result<SessionParams> {
        let kv_type = match self.kv_type {
            t if t == diffusion_kv_type::F16 as i32 => KvType::F16,
            t if t == diffusion_kv_type::F32 as i32 => KvType::F32,
            t if t == diffusion_kv_type::Q8_0 as i32 => KvType::Q8_0,
            t => return Err(Failure::argument("kv_type", format_args!("{t} is none"))),
        };
        let flash_attention = match self.flash_attention {
            f if f == diffusion_flash_attention::Auto as i32 => FlashAttention::Auto,
            f if f == diffusion_flash_attention::On as i32 => FlashAttention::On,
            f if f == diffusion_flash_attention::Off as i32 => FlashAttention::Off,
            f => {
                let problem = format_args!("{f} is none");
                return Err(Failure::argument("flash_attention", problem));
            }
        };
        let unless_0 = |number: usize| (number > 0).then_some(number);
        Ok(SessionParams {
            context: unless_0(self.context_length),
            batch: unless_0(self.batch_size),
            threads: unless_0(self.threads as usize),
            prefill_threads: None,
            kv_type,
            flash_attention,
            swa_full: self.swa_full != 0,
            checkpoints: None,
        })
    }
}

/// Sets the defaults.
///
/// `struct_size`: `sizeof(diffusion_context_params)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_context_params_init(
    params: *mut diffusion_context_params,
    struct_size: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe { StructOutput::with_size(params, struct_size, "params") }?
            .write(&diffusion_context_params::default());
        Ok(())
    })
}

/// Reserves the memory of a conversation. Any thread may call it.
///
/// `model`: the context holds a reference to it. `params`: NULL for the defaults. `context`:
/// receives the context; free it with `diffusion_context_free`.
///
/// Errors: `INVALID_ARGUMENT` for invalid parameters, `OUT_OF_MEMORY`, `BACKEND`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_context_new(
    model: *mut diffusion_model,
    params: *const diffusion_context_params,
    context: *mut *mut diffusion_context,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let (shared, params) = unsafe {
            let shared = reference(model, "model")?;
            (shared, read(params, diffusion_context_params::default())?)
        };
        let context = output(context, "context")?;
        let session = Session::new(&shared.model, shared.end.clone(), &params.session()?)?;
        // SAFETY: a live model, made by Arc::into_raw; the new reference belongs to the context.
        let model = unsafe {
            Arc::increment_strong_count(model);
            Arc::from_raw(model)
        };
        let new = diffusion_context {
            model,
            cancel: CancelFlag::default(),
            session: Mutex::new(session),
        };
        // SAFETY: the caller's variable.
        unsafe { context.write(Box::into_raw(Box::new(new))) };
        Ok(())
    })
}

/// Frees a context. NULL is allowed. No other call may be in progress, and the context must not be
/// used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_context_free(context: *mut diffusion_context) {
    if !context.is_null() {
        // SAFETY: made by Box::into_raw, given back once.
        release(|| drop(unsafe { Box::from_raw(context) }));
    }
}

/// Clears the cache: the next call starts from an empty conversation. The memory stays reserved.
///
/// Errors: `BUSY`, `POISONED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_context_reset(
    context: *mut diffusion_context,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe { reference(context, "context") }?.lock()?.reset()?;
        Ok(())
    })
}

/// Number of tokens in the cache, prompt and committed canvases: a prompt that begins with them
/// costs only its remaining tokens.
///
/// Errors: `BUSY`, `POISONED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_context_cached(
    context: *const diffusion_context,
    count: *mut usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let context = unsafe { reference(context, "context") }?;
        let count = output(count, "count")?;
        let cached = context.lock()?.cached().len();
        // SAFETY: the caller's variable.
        unsafe { count.write(cached) };
        Ok(())
    })
}

/// Cancels the running generation before its next denoising step; it then returns
/// `DIFFUSION_STATUS_CANCELLED`. Has no effect if none is running. Any thread may call it at any
/// time before `diffusion_context_free`, as may callbacks and signal handlers. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_context_cancel(context: *const diffusion_context) {
    // SAFETY: NULL or a live context, by the rules of the header.
    if let Some(context) = unsafe { context.as_ref() } {
        context.cancel.cancel();
    }
}
