// Prints the answer to a prompt, token by token. Arguments: model, seed, maximum number of tokens, prompt.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	diffusion "llama-diffusion.test/diffusion"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 5 {
		log.Fatal("arguments: model, seed, maximum number of tokens, prompt")
	}
	var numbers []uint64
	for _, argument := range os.Args[2:] {
		number, err := strconv.ParseUint(argument, 10, 64)
		if err != nil {
			log.Fatal(err)
		}
		numbers = append(numbers, number)
	}
	var prompt []diffusion.Token
	for _, number := range numbers[2:] {
		prompt = append(prompt, diffusion.Token(number))
	}
	answer, err := generate(os.Args[1], prompt, diffusion.Params{Seed: numbers[0], MaxTokens: int(numbers[1])})
	if err != nil {
		log.Fatal(err)
	}
	for _, token := range answer.Tokens {
		fmt.Println(token)
	}
}

func generate(path string, prompt []diffusion.Token, params diffusion.Params) (*diffusion.Answer, error) {
	model, err := diffusion.Load(path)
	if err != nil {
		return nil, err
	}
	defer model.Close()
	c, err := model.NewContext(1)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Generate(context.Background(), prompt, params)
}
