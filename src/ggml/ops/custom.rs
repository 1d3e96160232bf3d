//! Nodes that our CPU kernels compute.

use std::ffi::c_void;

use super::super::context::Context;
use super::super::tensor::{Tensor, shape};
use crate::error::Result;
use crate::sys;

/// A computation of ours that ggml's CPU backend calls as part of a graph: every thread of the pool
/// calls it with its index and the number of threads.
pub(in crate::ggml) type CpuKernel =
    unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut c_void);

/// `GGML_N_TASKS_MAX`: a macro that bindgen cannot read.
const ALL_THREADS: i32 = -1;

impl Context {
    /// A node of F32 shape `ne` computed by one of our CPU kernels from `args`.
    pub(in crate::ggml) fn custom(
        &self,
        ne: &[usize],
        args: &[&Tensor],
        kernel: CpuKernel,
    ) -> Result<Tensor> {
        self.custom_with(ne, args, kernel, &())
    }

    /// Like [`custom`](Self::custom); the kernel gets the address of `data`.
    pub(in crate::ggml) fn custom_with<T: Sync>(
        &self,
        ne: &[usize],
        args: &[&Tensor],
        kernel: CpuKernel,
        data: &'static T,
    ) -> Result<Tensor> {
        self.ensure_room()?;
        let d = shape(ne).map(|n| n as i64);
        let mut args: Vec<_> = args.iter().map(|t| self.reads(t)).collect();
        // SAFETY: the kernels in `kernels` check nothing at run time: the functions that build
        // their nodes did.
        self.own(unsafe {
            sys::ggml_custom_4d(
                self.raw(),
                sys::GGML_TYPE_F32,
                d[0],
                d[1],
                d[2],
                d[3],
                args.as_mut_ptr(),
                args.len() as i32,
                Some(kernel),
                ALL_THREADS,
                std::ptr::from_ref(data).cast_mut().cast(),
            )
        })
    }

    /// Like [`custom`](Self::custom), writing to the memory of `dst`; yields `dst`.
    pub(in crate::ggml) fn custom_into(
        &self,
        dst: &Tensor,
        args: &[&Tensor],
        kernel: CpuKernel,
    ) -> Result<Tensor> {
        self.ensure_room()?;
        let mut args: Vec<_> = args.iter().map(|t| self.reads(t)).collect();
        // SAFETY: as in `custom`.
        self.own(unsafe {
            sys::ggml_custom_inplace(
                self.raw(),
                self.reads(dst),
                args.as_mut_ptr(),
                args.len() as i32,
                Some(kernel),
                ALL_THREADS,
                std::ptr::null_mut(),
            )
        })
    }
}
