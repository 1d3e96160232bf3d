// Package diffusion runs DiffusionGemma models with the C library llama_diffusion.
//
// Any number of goroutines may use a Model, one at a time a Context: others receive Busy. Both hold
// memory that Go does not manage, until Close.
//
// make install installs the library; pkg-config finds it. A program uses this package from a checkout:
//
//	go mod edit -require llama-diffusion.test/diffusion@v0.0.0 -replace llama-diffusion.test/diffusion=CHECKOUT/bindings/go
package diffusion

/*
#cgo pkg-config: llama_diffusion
#include <stdlib.h>
#include <llama_diffusion.h>

extern bool diffusionGoStep(diffusion_draft *draft, uintptr_t handle);
extern bool diffusionGoCanvas(diffusion_canvas *canvas, uintptr_t handle);

static bool on_step(const diffusion_draft *draft, void *user_data) {
	return diffusionGoStep((diffusion_draft *)draft, (uintptr_t)user_data);
}

static bool on_canvas(const diffusion_canvas *canvas, void *user_data) {
	return diffusionGoCanvas((diffusion_canvas *)canvas, (uintptr_t)user_data);
}

// The handle is not a pointer, so it must not be in a struct that Go's garbage collector scans.
static diffusion_status generate(diffusion_context *context, const int32_t *prompt, size_t length,
                                 diffusion_params params, uintptr_t handle, int32_t *tokens,
                                 size_t capacity, size_t *count, diffusion_result *result,
                                 diffusion_error **error) {
	params.on_step = on_step;
	params.on_canvas = on_canvas;
	params.user_data = (void *)handle;
	return diffusion_generate(context, prompt, length, &params, tokens, capacity, count, result, error);
}
*/
import "C"

import (
	"context"
	"errors"
	"runtime/cgo"
	"sync"
	"unsafe"
)

// Token is an index into the vocabulary.
type Token = int32

// ErrClosed is returned by everything except Close after Close.
var ErrClosed = errors.New("diffusion: closed")

// Status says what kind of failure an Error is: errors.Is(err, diffusion.Busy).
type Status int32

// The failures that callers can handle; llama_diffusion.h lists all.
const (
	InvalidArgument Status = C.DIFFUSION_STATUS_INVALID_ARGUMENT
	IO              Status = C.DIFFUSION_STATUS_IO
	BadModel        Status = C.DIFFUSION_STATUS_BAD_MODEL
	ContextFull     Status = C.DIFFUSION_STATUS_CONTEXT_FULL
	OutOfMemory     Status = C.DIFFUSION_STATUS_OUT_OF_MEMORY
	Tokenizer       Status = C.DIFFUSION_STATUS_TOKENIZER
	Cancelled       Status = C.DIFFUSION_STATUS_CANCELLED
	bufferTooSmall  Status = C.DIFFUSION_STATUS_BUFFER_TOO_SMALL
	NotFound        Status = C.DIFFUSION_STATUS_NOT_FOUND
	Busy            Status = C.DIFFUSION_STATUS_BUSY
)

func (s Status) Error() string {
	return C.GoString(C.diffusion_status_name(C.int32_t(s)))
}

// Error is a failure of the library.
type Error struct {
	Status  Status
	Message string
	cause   error
}

func (e *Error) Error() string { return "diffusion: " + e.Message }

// Is reports whether target is the Status, or the error of the context.Context that cancelled.
func (e *Error) Is(target error) bool {
	return target == error(e.Status) || e.cause != nil && errors.Is(e.cause, target)
}

// check turns the error object of a call into an error, and frees it.
func check(status C.diffusion_status, object *C.diffusion_error) error {
	if status == C.DIFFUSION_STATUS_OK {
		return nil
	}
	defer C.diffusion_error_free(object)
	return &Error{Status: Status(status), Message: C.GoString(C.diffusion_error_message(object))}
}

// fill calls for an output of unknown size, and again with the required capacity if needed.
func fill[T any](call func(buffer *T, capacity C.size_t, count *C.size_t, object **C.diffusion_error) C.diffusion_status) ([]T, error) {
	values := make([]T, 64)
	for {
		var count C.size_t
		var object *C.diffusion_error
		err := check(call(&values[0], C.size_t(len(values)), &count, &object), object)
		if errors.Is(err, bufferTooSmall) && int(count) > len(values) {
			values = make([]T, count)
			continue
		}
		if err != nil {
			return nil, err
		}
		return values[:count], nil
	}
}

// first is the address of a slice, nil if it is empty.
func first[T any](values []T) *T {
	if len(values) == 0 {
		return nil
	}
	return &values[0]
}

// Model is a loaded model.
type Model struct {
	mutex  sync.RWMutex // held to read during calls, to write by Close
	handle *C.diffusion_model
}

// Load loads a GGUF file.
func Load(path string) (*Model, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var handle *C.diffusion_model
	var object *C.diffusion_error
	if err := check(C.diffusion_model_load(name, nil, &handle, &object), object); err != nil {
		return nil, err
	}
	return &Model{handle: handle}, nil
}

// Close frees the model; contexts keep working. A second Close has no effect.
func (m *Model) Close() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	C.diffusion_model_free(m.handle)
	m.handle = nil
	return nil
}

// use runs a call with the model, unless it is closed.
func (m *Model) use(call func(handle *C.diffusion_model) error) error {
	m.mutex.RLock()
	defer m.mutex.RUnlock()
	if m.handle == nil {
		return ErrClosed
	}
	return call(m.handle)
}

// Tokenize splits a text into tokens.
func (m *Model) Tokenize(text string) (tokens []Token, err error) {
	bytes := C.CString(text)
	defer C.free(unsafe.Pointer(bytes))
	err = m.use(func(handle *C.diffusion_model) (err error) {
		found, err := fill(func(buffer *C.int32_t, capacity C.size_t, count *C.size_t, object **C.diffusion_error) C.diffusion_status {
			return C.diffusion_tokenize(handle, bytes, C.size_t(len(text)), false, false, buffer, capacity, count, object)
		})
		tokens = toTokens(found)
		return err
	})
	return tokens, err
}

// Detokenize returns the text of tokens.
func (m *Model) Detokenize(tokens []Token) (text string, err error) {
	err = m.use(func(handle *C.diffusion_model) error {
		bytes, err := fill(func(buffer *C.char, capacity C.size_t, count *C.size_t, object **C.diffusion_error) C.diffusion_status {
			return C.diffusion_detokenize(handle, (*C.int32_t)(first(tokens)), C.size_t(len(tokens)), false, buffer, capacity, count, object)
		})
		if err == nil {
			text = C.GoStringN(first(bytes), C.int(len(bytes)-1))
		}
		return err
	})
	return text, err
}

// Split returns the text of an answer to prompt and, separately, what the model thought before.
func (m *Model) Split(prompt, answer []Token) (text, thoughts string, err error) {
	err = m.use(func(handle *C.diffusion_model) error {
		var ownText, ownThoughts *C.char
		var object *C.diffusion_error
		status := C.diffusion_split_answer(handle, (*C.int32_t)(first(prompt)), C.size_t(len(prompt)),
			(*C.int32_t)(first(answer)), C.size_t(len(answer)), &ownText, &ownThoughts, &object)
		if err := check(status, object); err != nil {
			return err
		}
		defer C.diffusion_string_free(ownText)
		defer C.diffusion_string_free(ownThoughts)
		text, thoughts = C.GoString(ownText), C.GoString(ownThoughts)
		return nil
	})
	return text, thoughts, err
}

// Chat returns the prompt of a conversation, which is JSON: [{"role": "user", "content": "Hello!"}].
func (m *Model) Chat(messages string) (tokens []Token, err error) {
	json := C.CString(messages)
	defer C.free(unsafe.Pointer(json))
	err = m.use(func(handle *C.diffusion_model) error {
		found, err := fill(func(buffer *C.int32_t, capacity C.size_t, count *C.size_t, object **C.diffusion_error) C.diffusion_status {
			return C.diffusion_apply_chat_template(handle, json, nil, buffer, capacity, count, object)
		})
		tokens = toTokens(found)
		return err
	})
	return tokens, err
}

func toTokens(values []C.int32_t) []Token {
	tokens := make([]Token, len(values))
	for i, value := range values {
		tokens[i] = Token(value)
	}
	return tokens
}

// Progress reports whether a canvas needs another denoising step.
type Progress int32

const (
	// Running: it does.
	Running Progress = C.DIFFUSION_PROGRESS_RUNNING
	// Converged: it does not.
	Converged Progress = C.DIFFUSION_PROGRESS_CONVERGED
	// OutOfSteps: it does not get one, all steps are used up.
	OutOfSteps Progress = C.DIFFUSION_PROGRESS_OUT_OF_STEPS
)

// Draft is a canvas after a denoising step.
type Draft struct {
	Block, Step, MaxSteps    int
	Temperature, MeanEntropy float32
	Progress                 Progress
	Argmax, Sampled, Canvas  []Token
	Entropy, Probability     []float32
	Accepted                 []bool
}

// Canvas is a finished canvas.
type Canvas struct {
	// Tokens that it adds to the answer.
	Tokens       []Token
	Block, Steps int
	// Converged is false if its steps were used up.
	Converged bool
	// Ended reports that the answer ends in this canvas.
	Ended bool
}

// Params say how an answer is generated.
type Params struct {
	// Seed of the randomness.
	Seed uint64
	// MaxTokens of the answer; 0 is the library's default.
	MaxTokens int
	// OnStep receives each draft, OnCanvas each finished canvas; both may be nil.
	OnStep   func(Draft)
	OnCanvas func(Canvas)
}

// Answer is what Generate returns.
type Answer struct {
	// Tokens of the answer, thoughts included: Model.Split converts them to text.
	Tokens []Token
	// Reused is the number of tokens of the prompt that were cached.
	Reused        int
	Steps, Blocks int
	// Ended reports that the model, and not a limit, ended the answer.
	Ended bool
}

// Context is a conversation.
type Context struct {
	defaults C.diffusion_params
	mutex    sync.Mutex // held during Generate and Close
	handle   *C.diffusion_context
}

// NewContext reserves the memory of a conversation. threads is the number of CPU threads: 0 is one
// for each core.
func (m *Model) NewContext(threads int) (c *Context, err error) {
	err = m.use(func(model *C.diffusion_model) error {
		var defaults C.diffusion_params
		var params C.diffusion_context_params
		var handle *C.diffusion_context
		var object *C.diffusion_error
		if err := check(C.diffusion_params_init(model, &defaults, C.sizeof_diffusion_params, &object), object); err != nil {
			return err
		}
		if err := check(C.diffusion_context_params_init(&params, C.sizeof_diffusion_context_params, &object), object); err != nil {
			return err
		}
		params.threads = C.uint32_t(threads)
		if err := check(C.diffusion_context_new(model, &params, &handle, &object), object); err != nil {
			return err
		}
		c = &Context{defaults: defaults, handle: handle}
		return nil
	})
	return c, err
}

// Close waits for a running Generate and frees the context; callbacks must not call it. A second
// Close has no effect.
func (c *Context) Close() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	C.diffusion_context_free(c.handle)
	c.handle = nil
	return nil
}

// generation is the state that callbacks need.
type generation struct {
	ctx      context.Context
	params   Params
	panicked any
}

// Generate answers a prompt until ctx is done. A second call while it runs returns Busy.
func (c *Context) Generate(ctx context.Context, prompt []Token, params Params) (*Answer, error) {
	// A rejected call must not start the watcher below, which would cancel the running one.
	if !c.mutex.TryLock() {
		return nil, &Error{Status: Busy, Message: "another Generate uses the context"}
	}
	defer c.mutex.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, &Error{Status: Cancelled, Message: "cancelled before it began", cause: err}
	}
	if c.handle == nil {
		return nil, ErrClosed
	}
	raw := c.defaults
	raw.seed = C.uint64_t(params.Seed)
	if params.MaxTokens > 0 {
		raw.max_tokens = C.size_t(params.MaxTokens)
	}

	// Cancels between two callbacks; a cancellation before the first step is noticed by the callback.
	finished, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			C.diffusion_context_cancel(c.handle)
		case <-finished:
		}
	}()
	defer func() {
		close(finished)
		<-watched
	}()

	own := &generation{ctx: ctx, params: params}
	handle := cgo.NewHandle(own)
	defer handle.Delete()
	var result C.diffusion_result
	result.struct_size = C.sizeof_diffusion_result
	tokens, err := fill(func(buffer *C.int32_t, capacity C.size_t, count *C.size_t, object **C.diffusion_error) C.diffusion_status {
		return C.generate(c.handle, (*C.int32_t)(first(prompt)), C.size_t(len(prompt)), raw, C.uintptr_t(handle),
			buffer, capacity, count, &result, object)
	})
	if own.panicked != nil {
		panic(own.panicked)
	}
	var failure *Error
	if errors.As(err, &failure) && failure.Status == Cancelled {
		failure.cause = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return &Answer{
		Tokens: toTokens(tokens),
		Reused: int(result.reused),
		Steps:  int(result.steps),
		Blocks: int(result.blocks),
		Ended:  result.finish == C.DIFFUSION_FINISH_END_OF_TEXT,
	}, nil
}
