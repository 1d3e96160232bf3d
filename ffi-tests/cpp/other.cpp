// A second translation unit: both headers define nothing twice.
#include <llama_diffusion.hpp>
#include <llama_diffusion.h>
#include <llama_diffusion.hpp>

std::string other_version() { return diffusion_version(); }

std::size_t other_vocab_size(const llama_diffusion::Model &model) { return model.vocab_size(); }
