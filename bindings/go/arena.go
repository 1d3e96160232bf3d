package diffusion

/*
#include <stdlib.h>
#include <llama_diffusion.h>
*/
import "C"

import "unsafe"

// arena is memory of C that the pointers of parameters lead to: Go's own must not hold pointers there.
type arena []unsafe.Pointer

func (a *arena) free() {
	for _, memory := range *a {
		C.free(memory)
	}
}

// allocate returns a slice in the memory of C.
func allocate[T any](a *arena, count int) []T {
	if count == 0 {
		return nil
	}
	var element T
	memory := C.calloc(C.size_t(count), C.size_t(unsafe.Sizeof(element)))
	*a = append(*a, memory)
	return unsafe.Slice((*T)(memory), count)
}

// text returns a string of C, nil for an empty one.
func (a *arena) text(text string) *C.char {
	if text == "" {
		return nil
	}
	memory := C.CString(text)
	*a = append(*a, unsafe.Pointer(memory))
	return memory
}

// tokens returns an array of length tokens, of which those after the end of the slice are Any.
func (a *arena) tokens(tokens []Token, length int) *C.int32_t {
	own := allocate[C.int32_t](a, length)
	for i := range own {
		own[i] = C.int32_t(Any)
		if i < len(tokens) {
			own[i] = C.int32_t(tokens[i])
		}
	}
	return first(own)
}

// params returns the parameters in the form of C.
func (a *arena) params(defaults C.diffusion_params, params Params) C.diffusion_params {
	raw := defaults
	raw.seed = C.uint64_t(params.Seed)
	if params.MaxTokens > 0 {
		raw.max_tokens = C.size_t(params.MaxTokens)
	}
	raw.json_schema = a.text(params.Schema)
	raw.regex = a.text(params.Regex)
	raw.min_logprob = C.float(params.MinLogprob)
	raw.ahead = C.size_t(params.Ahead)
	pointers := allocate[*C.diffusion_template](a, len(params.Templates))
	for i := range params.Templates {
		pointers[i] = a.template(&params.Templates[i])
	}
	raw.templates = first(pointers)
	raw.template_count = C.size_t(len(pointers))
	return raw
}

func (a *arena) template(template *Template) *C.diffusion_template {
	length := len(template.Fixed)
	if length < len(template.Initial) {
		length = len(template.Initial)
	}
	for position := range template.Within {
		if length <= position {
			length = position + 1
		}
	}
	setOf := make([]Token, length)
	for i := range setOf {
		setOf[i] = Any
	}
	sets := allocate[C.diffusion_token_set](a, len(template.Within))
	index := 0
	for position, tokens := range template.Within {
		sets[index] = C.diffusion_token_set{tokens: a.tokens(tokens, len(tokens)), count: C.size_t(len(tokens))}
		if position >= 0 {
			setOf[position] = Token(index)
		}
		index++
	}
	own := &allocate[C.diffusion_template](a, 1)[0]
	own.struct_size = C.sizeof_diffusion_template
	own.length = C.size_t(length)
	own.fixed = a.tokens(template.Fixed, length)
	own.set_of = a.tokens(setOf, length)
	own.initial = a.tokens(template.Initial, length)
	own.sets = first(sets)
	own.set_count = C.size_t(len(sets))
	own.first_step = C.uint32_t(template.FirstStep)
	return own
}
