package diffusion

/*
#include <llama_diffusion.h>
*/
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// call runs a callback. A panic must not cross the library: it cancels, and Generate
// panics with it.
func (g *generation) call(callback func()) (goOn C.bool) {
	defer func() {
		if g.panicked = recover(); g.panicked != nil {
			goOn = false
		}
	}()
	callback()
	return g.ctx.Err() == nil
}

// copied is Go's own copy of an array of the library.
func copied[To, From any](array *From, length C.size_t) []To {
	return append([]To(nil), unsafe.Slice((*To)(unsafe.Pointer(array)), int(length))...)
}

//export diffusionGoStep
func diffusionGoStep(draft *C.diffusion_draft, handle C.uintptr_t) C.bool {
	g := cgo.Handle(handle).Value().(*generation)
	return g.call(func() {
		if g.params.OnStep == nil {
			return
		}
		g.params.OnStep(Draft{
			Block:       int(draft.block),
			Step:        int(draft.step),
			MaxSteps:    int(draft.max_steps),
			Temperature: float32(draft.temperature),
			MeanEntropy: float32(draft.mean_entropy),
			Progress:    Progress(draft.progress),
			Argmax:      copied[Token](draft.argmax, draft.length),
			Sampled:     copied[Token](draft.sampled, draft.length),
			Canvas:      copied[Token](draft.canvas, draft.length),
			Entropy:     copied[float32](draft.entropy, draft.length),
			Probability: copied[float32](draft.probability, draft.length),
			Accepted:    copied[bool](draft.accepted, draft.length),
		})
	})
}

//export diffusionGoCanvas
func diffusionGoCanvas(canvas *C.diffusion_canvas, handle C.uintptr_t) C.bool {
	g := cgo.Handle(handle).Value().(*generation)
	return g.call(func() {
		if g.params.OnCanvas != nil {
			g.params.OnCanvas(Canvas{
				Tokens:    copied[Token](canvas.tokens, canvas.count),
				Block:     int(canvas.block),
				Steps:     int(canvas.steps),
				Converged: canvas.converged != 0,
				Ended:     canvas.ended != 0,
			})
		}
	})
}
