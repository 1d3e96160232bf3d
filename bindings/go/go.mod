module llama-diffusion.test/diffusion

go 1.19
