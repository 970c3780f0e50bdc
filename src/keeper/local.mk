# src/keeper
