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
static void listen(diffusion_params *params, uintptr_t handle) {
	params->on_step = on_step;
	params->on_canvas = on_canvas;
	params->user_data = (void *)handle;
}

static diffusion_status generate(diffusion_context *context, const int32_t *prompt, size_t length,
                                 diffusion_params params, uintptr_t handle, int32_t *tokens,
                                 size_t capacity, size_t *count, diffusion_result *result,
                                 diffusion_error **error) {
	listen(&params, handle);
	return diffusion_generate(context, prompt, length, &params, tokens, capacity, count, result, error);
}

static diffusion_status check_text(diffusion_context *context, const int32_t *prompt, size_t length,
                                   const int32_t *text, size_t text_length, diffusion_params params,
                                   uintptr_t handle, int32_t *tokens, size_t capacity, size_t *count,
                                   diffusion_result *result, diffusion_error **error) {
	listen(&params, handle);
	return diffusion_check(context, prompt, length, text, text_length, &params, tokens, capacity, count,
	                       result, error);
}

static diffusion_status edit(diffusion_context *context, const char *text, size_t length,
                             const char *instruction, size_t instruction_length, float strength,
                             const diffusion_lines *lines, size_t count, diffusion_params params,
                             uintptr_t handle, char **edited, diffusion_result *result,
                             diffusion_error **error) {
	listen(&params, handle);
	return diffusion_edit_text(context, text, length, instruction, instruction_length, strength, lines,
	                           count, &params, edited, result, error);
}

static diffusion_status infill(diffusion_context *context, const char *request, size_t length,
                               diffusion_params params, uintptr_t handle, char **answer,
                               diffusion_error **error) {
	listen(&params, handle);
	return diffusion_infill(context, request, length, &params, answer, error);
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
	// Schema is a JSON Schema that the answer follows; "{}" is any JSON. Regex is an expression that it
	// matches as a whole. Empty is none; at most one of them is set.
	Schema, Regex string
	// Templates are what is known about the canvases, from the first one on.
	Templates []Template
	// MinLogprob is the log-probability in nats below which a token of a finished canvas is denoised
	// again; 0 repairs nothing.
	MinLogprob float32
	// Ahead is the number of tokens that the causal encoder writes before the first canvas.
	Ahead int
	// OnStep receives each draft, OnCanvas each finished canvas; both may be nil.
	OnStep   func(Draft)
	OnCanvas func(Canvas)
}

// Any is a position of a Template that holds any token.
const Any Token = -1

// Template is what is known about a canvas before its first step. Positions after the ends of the
// slices are free.
type Template struct {
	// Fixed has for each position the token that it holds, or Any.
	Fixed []Token
	// Within has sets of tokens for positions that are not fixed.
	Within map[int][]Token
	// Initial has for each position the token that it begins with, or Any for noise.
	Initial []Token
	// FirstStep of the schedule.
	FirstStep int
}

// Lines are lines of a text, counted from 1.
type Lines struct{ First, Last int }

// Answer is what Generate and Check return.
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
	return c.answer(ctx, params, func(raw C.diffusion_params, handle C.uintptr_t, buffer *C.int32_t, capacity C.size_t,
		count *C.size_t, result *C.diffusion_result, object **C.diffusion_error) C.diffusion_status {
		return C.generate(c.handle, (*C.int32_t)(first(prompt)), C.size_t(len(prompt)), raw, handle,
			buffer, capacity, count, result, object)
	})
}

// Check repairs a text, which has its end token if it ends, as an answer to prompt: tokens whose
// log-probability is below MinLogprob of params are denoised again.
func (c *Context) Check(ctx context.Context, prompt, text []Token, params Params) (*Answer, error) {
	return c.answer(ctx, params, func(raw C.diffusion_params, handle C.uintptr_t, buffer *C.int32_t, capacity C.size_t,
		count *C.size_t, result *C.diffusion_result, object **C.diffusion_error) C.diffusion_status {
		return C.check_text(c.handle, (*C.int32_t)(first(prompt)), C.size_t(len(prompt)), (*C.int32_t)(first(text)),
			C.size_t(len(text)), raw, handle, buffer, capacity, count, result, object)
	})
}

// Edit changes a text as instruction asks for. strength, from 0 to 1, is the share of it that begins as
// noise; the lines stay byte for byte.
func (c *Context) Edit(ctx context.Context, text, instruction string, strength float32, lines []Lines, params Params) (edited string, err error) {
	ownText, ownInstruction := C.CString(text), C.CString(instruction)
	defer C.free(unsafe.Pointer(ownText))
	defer C.free(unsafe.Pointer(ownInstruction))
	ranges := make([]C.diffusion_lines, len(lines))
	for i, line := range lines {
		ranges[i] = C.diffusion_lines{first: C.size_t(line.First), last: C.size_t(line.Last)}
	}
	err = c.run(ctx, params, func(raw C.diffusion_params, handle C.uintptr_t) error {
		var out *C.char
		var object *C.diffusion_error
		status := C.edit(c.handle, ownText, C.size_t(len(text)), ownInstruction, C.size_t(len(instruction)),
			C.float(strength), first(ranges), C.size_t(len(ranges)), raw, handle, &out, nil, &object)
		if err := check(status, object); err != nil {
			return err
		}
		defer C.diffusion_string_free(out)
		edited = C.GoString(out)
		return nil
	})
	return edited, err
}

// Fill fills a form as the answer to prompt. Form and answer are JSON: llama_diffusion.h describes both.
func (c *Context) Fill(ctx context.Context, prompt []Token, form string) (answer string, err error) {
	own := C.CString(form)
	defer C.free(unsafe.Pointer(own))
	err = c.run(ctx, Params{}, func(C.diffusion_params, C.uintptr_t) error {
		var out *C.char
		var object *C.diffusion_error
		status := C.diffusion_fill(c.handle, (*C.int32_t)(first(prompt)), C.size_t(len(prompt)), own,
			C.size_t(len(form)), C.DIFFUSION_THOUGHTS_OFF, &out, &object)
		if err := check(status, object); err != nil {
			return err
		}
		defer C.diffusion_string_free(out)
		answer = C.GoString(out)
		return nil
	})
	return answer, err
}

// Infill fills a gap in a text. Request and answer are JSON: llama_diffusion.h describes both.
func (c *Context) Infill(ctx context.Context, request string, params Params) (answer string, err error) {
	own := C.CString(request)
	defer C.free(unsafe.Pointer(own))
	err = c.run(ctx, params, func(raw C.diffusion_params, handle C.uintptr_t) error {
		var out *C.char
		var object *C.diffusion_error
		status := C.infill(c.handle, own, C.size_t(len(request)), raw, handle, &out, &object)
		if err := check(status, object); err != nil {
			return err
		}
		defer C.diffusion_string_free(out)
		answer = C.GoString(out)
		return nil
	})
	return answer, err
}

// answer runs a call that writes an answer.
func (c *Context) answer(ctx context.Context, params Params, call func(raw C.diffusion_params, handle C.uintptr_t,
	buffer *C.int32_t, capacity C.size_t, count *C.size_t, result *C.diffusion_result, object **C.diffusion_error) C.diffusion_status) (*Answer, error) {
	var result C.diffusion_result
	result.struct_size = C.sizeof_diffusion_result
	var tokens []C.int32_t
	err := c.run(ctx, params, func(raw C.diffusion_params, handle C.uintptr_t) (err error) {
		tokens, err = fill(func(buffer *C.int32_t, capacity C.size_t, count *C.size_t, object **C.diffusion_error) C.diffusion_status {
			return call(raw, handle, buffer, capacity, count, &result, object)
		})
		return err
	})
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

// run runs a call that denoises, until ctx is done.
func (c *Context) run(ctx context.Context, params Params, call func(raw C.diffusion_params, handle C.uintptr_t) error) error {
	// A rejected call must not start the watcher below, which would cancel the running one.
	if !c.mutex.TryLock() {
		return &Error{Status: Busy, Message: "another call uses the context"}
	}
	defer c.mutex.Unlock()
	if err := ctx.Err(); err != nil {
		return &Error{Status: Cancelled, Message: "cancelled before it began", cause: err}
	}
	if c.handle == nil {
		return ErrClosed
	}
	var memory arena
	defer memory.free()
	raw := memory.params(c.defaults, params)

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
	err := call(raw, C.uintptr_t(handle))
	if own.panicked != nil {
		panic(own.panicked)
	}
	var failure *Error
	if errors.As(err, &failure) && failure.Status == Cancelled {
		failure.cause = ctx.Err()
	}
	return err
}
