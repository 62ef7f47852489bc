# A guest of one sector. Ten times a second it reads the second sector of its disk
# and prints to the first serial port how often it has, and the sector's first word.
#	as --32 guest.s -o guest.o && ld -m elf_i386 -Ttext 0x7c00 --oformat binary guest.o -o guest.bin
	.code16
	.globl _start
_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
	movb %dl, drive
	sti
again:
	movw $packet, %si		# read the sector
	movb drive, %dl
	movb $0x42, %ah
	int $0x13
	jc failed
	incw count
	movw $text, %si			# "guest 002a hello"
	call print
	movw count, %bx
	movw $4, %cx
digit:
	rolw $4, %bx
	movb %bl, %al
	andb $15, %al
	addb $'0', %al
	cmpb $'9', %al
	jbe small
	addb $39, %al
small:
	call putc
	loop digit
	movb $' ', %al
	call putc
	movw $0x7e00, %si
	call print
	jmp rest
failed:
	movw $wrong, %si
	call print
rest:
	movb $'\r', %al
	call putc
	movb $'\n', %al
	call putc
	hlt				# two ticks of the timer
	hlt
	jmp again
print:					# until a byte that is no text
	lodsb
	cmpb $' ', %al
	jb done
	call putc
	jmp print
done:
	ret
putc:
	pushw %ax
	movw $0x3fd, %dx
full:
	inb %dx, %al
	testb $0x20, %al
	jz full
	popw %ax
	movw $0x3f8, %dx
	outb %al, %dx
	ret
text:	.asciz "guest "
wrong:	.asciz "guest has no disk"
count:	.word 0
drive:	.byte 0
	.balign 4
packet:	.byte 16, 0
	.word 1, 0x7e00, 0
	.quad 1
	.org 510
	.word 0xaa55
