// Prints the answer to a prompt, token by token. Arguments: model, seed, maximum number of tokens, prompt.
#include <llama_diffusion.hpp>

#include <iostream>

int main(int argc, char **argv) {
    if (argc < 5)
        return 2;
    const llama_diffusion::Model model(argv[1]);
    llama_diffusion::Params params(model);
    params.seed = std::stoull(argv[2]);
    params.max_tokens = std::stoull(argv[3]);
    llama_diffusion::Tokens prompt;
    for (int i = 4; i < argc; i++)
        prompt.push_back(std::stoi(argv[i]));
    llama_diffusion::Context context(model);
    for (const std::int32_t token : context.generate(prompt, params).tokens)
        std::cout << token << '\n';
    return 0; // beside.c calls this under another name
}
